"""The bash of launcher=script that is the same for every plan; pdslurm/slurm/sbatch_script.py puts the plan between its parts."""

from __future__ import annotations

ABOUT = """\
#     sbatch THIS_FILE      in the folder in which the relative paths below begin
# Needs bash 4, curl and iproute2 on the nodes and a file system that they share; nothing of pdslurm, which wrote it
# (python -m pdslurm … launcher=script). Ports are the plan's first choice: where one is taken, its engine says so in its log and
# all ends; change it here then. Measuring, checking nodes, resuming and removing what a killed engine leaves are pdslurm's own."""

FUNCTIONS = r"""
STEP=(--export=ALL --overlap --mem=0 --cpu-bind=none --quiet)   # steps share what the job has

fail() { printf '%s\n' "$*" >&2; exit 1; }

[[ $SLURM_JOB_ID ]] || fail "not in a Slurm job; submit this script with sbatch"
mapfile -t NODES < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
((${#NODES[@]} >= COUNT)) || fail "needs $COUNT nodes; job $SLURM_JOB_ID has ${#NODES[@]}: ${NODES[*]}"
[[ $SLURMD_NODENAME == "${NODES[0]}" ]] || fail "runs on ${NODES[0]}, the job's first node: submit this script with sbatch"
command -v curl >/dev/null || fail "curl is not on PATH of ${NODES[0]}"
[[ $LOGS == /* ]] || LOGS=$PWD/$LOGS
if ! mkdir -p "$LOGS" || ! chmod 700 "$LOGS"; then fail "$LOGS: cannot be written"; fi

# The engines' key, made for this job: in a file and in environments for its owner alone, never on a command line
umask 077
KEY_FILE=$LOGS/api-key
VLLM_API_KEY=$(od -An -v -tx1 -N32 /dev/urandom | tr -d ' \n')
printf '%s\n' "$VLLM_API_KEY" >"$KEY_FILE" || fail "$KEY_FILE: cannot be written"
export VLLM_API_KEY OPENAI_API_KEY=$VLLM_API_KEY PYTHONUNBUFFERED=1

NAMES=() WHERE=() PIDS=()
started() {   # NAME NODE: notes the srun that was put into the background just now
    NAMES+=("$1") WHERE+=("$2") PIDS+=("$!")
}

look() {      # ends all when one has died
    local i code
    for i in "${!PIDS[@]}"; do
        kill -0 "${PIDS[i]}" 2>/dev/null && continue
        wait "${PIDS[i]}"
        code=$?
        {
            printf '%s on %s died: exit code %s\n  log: %s\n' "${NAMES[i]}" "${WHERE[i]}" "$code" "$LOGS/${NAMES[i]}.log"
            tail -n 40 "$LOGS/${NAMES[i]}.log" | sed 's/^/  | /'
        } >&2
        exit 4
    done
}

ready() {     # URL …: waits until each answers /health with 200
    local deadline=$((SECONDS + START_S)) url waiting=("$@") still
    while :; do
        look
        still=()
        for url in "${waiting[@]}"; do
            curl --silent --fail --output /dev/null --max-time 5 --noproxy '*' "$url/health" || still+=("$url")
        done
        ((${#still[@]})) || return 0
        waiting=("${still[@]}")
        ((SECONDS < deadline)) || fail "not ready within $START_S s: ${waiting[*]}; see the logs in $LOGS"
        sleep 1
    done
}

ended() {     # S: whether all steps have ended, waiting S seconds at most
    local deadline=$((SECONDS + $1)) pid
    for pid in "${PIDS[@]}"; do
        while kill -0 "$pid" 2>/dev/null; do
            ((SECONDS < deadline)) || return 1
            sleep 0.2
        done
    done
}

finish() {    # whatever the reason: no step outlives this script, and Slurm ends what outlives STOP_S
    trap '' TERM INT HUP
    rm -f "$KEY_FILE"
    # Slurm's TERM has reached the steps too, and a second one could disturb their end. TERM to an srun would kill its step at once
    if [[ $SIGNALLED ]] && ended 3; then return; fi
    ended 0 || scancel --quiet --signal=TERM "$SLURM_JOB_ID"   # to the steps, not to this script
    ended "$STOP_S"
}
SIGNALLED=
trap 'SIGNALLED=yes; exit 143' TERM
trap 'SIGNALLED=yes; exit 130' INT
trap finish EXIT
""".rstrip()

ROUTE_COMMAND = r"""'peer=$1; [[ $peer != "$SLURMD_NODENAME" ]] || peer=$2
    read -r to _ < <(getent ahostsv4 "$peer")
    [[ $(ip -4 -o route get "$to") =~ dev\ ([^ ]+).*\ src\ ([^ ]+) ]] && echo "$SLURMD_NODENAME ${BASH_REMATCH[*]:1}"'"""

ADDRESS_COMMAND = r"""'read -r _ interface _ address _ < <(ip -4 -o address show scope global "$@")
    [[ $address ]] && echo "$SLURMD_NODENAME $interface ${address%/*}"'"""

ADDRESSES = r"""
# --- each node's address and its interface, asked on the node itself
# shellcheck disable=SC2016  # expanded there, not here
ASK={command}
ADDRESS=() INTERFACE=()   # the latter is not always used
while read -r node interface address; do
    for n in "${{!NODES[@]}}"; do
        [[ ${{NODES[n]}} != "$node" ]] || ADDRESS[n]=$address INTERFACE[n]=$interface
    done
done < <(
    srun "${{STEP[@]}}" --nodes="$COUNT" --ntasks="$COUNT" --ntasks-per-node=1 --gres=none --job-name=addresses \
        --nodelist="$(IFS=, && echo "${{NODES[*]:0:COUNT}}")" \
        bash -c "$ASK" bash {words} 2>"$LOGS/addresses.log" </dev/null
)
for ((n = 0; n < COUNT; n++)); do
    [[ ${{ADDRESS[n]}} ]] || fail "${{NODES[n]}}: has no such address; see $LOGS/addresses.log"
    echo "node $n: ${{NODES[n]}} ${{ADDRESS[n]}} ${{INTERFACE[n]}}"
done"""

NO_PROXY = r"""
# --- no proxy for loopback and the nodes, whatever http_proxy says. Python and curl know `*` only where it is alone
DIRECT=$(IFS=, && echo "localhost,127.0.0.1,::1,${{ADDRESS[*]}},${{NODES[*]:0:COUNT}}")
export NO_PROXY={given}${{no_proxy:+$no_proxy,}}${{NO_PROXY:+$NO_PROXY,}}$DIRECT
export no_proxy=$NO_PROXY
if [[ ,$NO_PROXY, == *,\*,* ]]; then no_proxy='*'; fi"""

SERVE = r"""
echo "serving: $URL on ${NODES[0]}; the key is in $KEY_FILE; scancel $SLURM_JOB_ID ends it"
[[ $URL != http://127.0.0.1:* ]] ||
    echo "only ${NODES[0]} reaches it: srun --jobid=$SLURM_JOB_ID --overlap --nodes=1 --ntasks=1 --nodelist=${NODES[0]} --pty bash"
# shellcheck disable=SC2016  # the key is read by whoever runs it, and stays off the command line
{
    printf 'a request: curl --noproxy "*" -H @<(echo "Authorization: Bearer $(<%q)")' "$KEY_FILE"
    printf ' %q' -H "Content-Type: application/json" -d "$BODY" "$URL/v1/completions"
    printf '\n'
    printf 'the first point: no_proxy=%q NO_PROXY=%q OPENAI_API_KEY=$(<%q)' "$no_proxy" "$NO_PROXY" "$KEY_FILE"
    printf ' %q' "${BENCH[@]}"
    printf '\n'
}
while :; do
    look
    sleep 1
done"""
