"""The schema of a configuration: dataclasses that Hydra checks conf/*.yaml against; values and choices live there, not here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from pdslurm.errors import ConfigError


class Device(Enum):
    cuda = "cuda"
    cpu = "cpu"


class LauncherKind(Enum):
    plan = "plan"
    local = "local"
    slurm = "slurm"
    allocation = "allocation"
    script = "script"
    attach = "attach"


class PlanFormat(Enum):
    text = "text"
    json = "json"


class RuntimeKind(Enum):
    bare = "bare"  # argv and environment, as they are
    docker = "docker"
    podman = "podman"
    apptainer = "apptainer"
    enroot = "enroot"
    pyxis = "pyxis"  # Slurm itself starts a node's agent inside the image, and the agent its engines as bare processes


class KvRole(Enum):
    both = "both"  # one set of instances serves every P:D ratio; which instance prefills is the router's choice
    by_role = "by_role"  # kv_producer and kv_consumer, as seed scripts do; arms then cannot share instances


class Transport(Enum):
    """What KV has to move over between nodes. Anything else, or no word of it, makes the points of a P/D arm invalid; within a node
    memory will always do."""

    any = "any"
    tcp = "tcp"  # also keeps UCX's sockets on the chosen interface
    rdma = "rdma"  # InfiniBand or RoCE
    efa = "efa"
    shm = "shm"  # memory of one node: shared, or GPU to GPU over NVLink or PCIe


class Access(Enum):
    """Who may enter a run's folder; what is in it follows the umask."""

    owner = "owner"
    group = "group"
    all = "all"


class Interleave(Enum):
    """What takes turns repeat by repeat, so that drift of the machine hits all alike."""

    none = "none"  # an arm measures all its points, then the next one
    arms = "arms"  # arms that share loaded instances; each turn restarts the router


@dataclass
class PortRange:
    """Ports first to last, ends included."""

    first: int = MISSING
    last: int = MISSING


@dataclass
class Ports:
    """Where a run's processes take their ports from; the two ranges must not overlap."""

    http: PortRange = field(default_factory=lambda: PortRange(8000, 9999))  # engines, routers and their metrics
    internal: PortRange = field(default_factory=lambda: PortRange(20000, 25999))  # NIXL side channels, DP and multi-node rendezvous


@dataclass
class Network:
    """Which of a node's addresses engines, NIXL and NCCL use. Both null: the one that leads to the node of the driver."""

    interface: str | None = None
    cidr: str | None = None
    transport: Transport = Transport.any
    open_router: bool = False  # the router listens on the node's address too, where whoever reaches it can use the engines


@dataclass
class Slurm:
    """What is asked of Slurm for a job, in sbatch's own words; null leaves it out. Nodes and GPUs come from the plan."""

    partition: Any = None  # text, as the four below; a field of text would hide that YAML reads 0123 as 83
    account: Any = None
    qos: Any = None
    constraint: Any = None
    reservation: Any = None
    time_min: int | None = None  # null: 1.5 × the plan's estimate, at least 30 minutes
    exclusive: bool = True
    gpus_by: str = "gres"  # gres: --gres=gpu:N; gpus-per-node: --gpus-per-node=N; none: --exclusive gives them
    requeue: bool = True  # after a preemption or a node's failure Slurm starts the job again, and it goes on where it was
    warn_s: int = 120  # Slurm sends USR2 so long before the time limit: the run stops, and is queued again where requeue is set
    setup: list[str] = field(default_factory=list)  # shell lines for the job script, such as `module load cuda`
    extra: dict[str, Any] = field(default_factory=dict)  # any other option of sbatch without its dashes
    srun: list[str] = field(default_factory=list)  # more options for every srun, such as --mpi=none


@dataclass
class Cluster:
    """Where it runs: nodes, GPUs, fabric, and what every engine there needs in its environment."""

    name: str = MISSING
    device: Device = Device.cuda
    gpus_per_node: int = MISSING  # on device=cpu: instances' worth of CPU slots
    gpu: str = MISSING  # model name, for people and for the record
    gpu_memory_gib: float = MISSING
    one_host: bool = False  # the "nodes" of a topology are slices of one machine: node k owns GPUs k·gpus_per_node onwards
    ports: Ports = field(default_factory=Ports)
    network: Network = field(default_factory=Network)
    slurm: Slurm = field(default_factory=Slurm)
    kv_backends: list[str] = field(default_factory=list)  # NIXL back ends: UCX or LIBFABRIC; empty: NIXL's default, UCX
    kv_buffer_device: str | None = None
    env: dict[str, Any] = field(default_factory=dict)  # text; a field of text would hide that YAML reads 010 as 8
    engine_args: dict[str, Any] = field(default_factory=dict)
    load_s: float = 180.0  # the three below are for estimates only
    gpu_tflops: float = 400.0
    step_ms: float = 25.0


@dataclass
class Model:
    """Which model, and how vLLM loads it."""

    name: str = MISSING
    path: str = MISSING  # a folder with config.json, or a hub's name
    dtype: str = "bfloat16"
    max_model_len: int | None = None
    engine_args: dict[str, Any] = field(default_factory=dict)
    hf_config: dict[str, Any] = field(default_factory=dict)  # config.json's content, for checks where `path` is not at hand
    make: bool = False  # make the folder `path` from hf_config: random weights, a small trained tokenizer


@dataclass
class Role:
    """What one role changes against its topology; null keeps the topology's value."""

    tensor_parallel: int | None = None
    pipeline_parallel: int | None = None
    gpus: int | None = None  # GPUs of one instance; null: see Topology.gpus
    extra_args: list[str] = field(default_factory=list)


@dataclass
class Kv:
    """How KV cache gets from prefill to decode."""

    connector: str = "nixl"  # nixl, or a connector of vLLM by its class name
    role: KvRole = KvRole.both
    extra_config: dict[str, Any] = field(default_factory=dict)


@dataclass
class Router:
    """vllm-router in front of the instances."""

    enabled: bool = True  # off only where there is a single plain instance
    policy: str = "round_robin"
    prefill_policy: str | None = None
    decode_policy: str | None = None
    extra_args: list[str] = field(default_factory=list)


@dataclass
class Topology:
    """route R × (P prefill + D decode | data parallel) over `nodes` nodes."""

    nodes: int = MISSING
    route: int = 1  # groups; more groups than nodes puts several on a node
    prefill: int = 0  # prefill instances per group, decode takes the rest; 0: no disaggregation
    tensor_parallel: int = MISSING
    pipeline_parallel: int = 1
    gpus: int | None = (
        None  # GPUs of one P/D instance; null: a node's where a group spans nodes, else TP·PP. More than TP·PP: DP inside
    )
    expert_parallel: bool = False
    extra_args: list[str] = field(default_factory=list)  # passed to every `vllm serve` as they are
    as_prefill: Role = field(default_factory=Role)
    as_decode: Role = field(default_factory=Role)
    kv: Kv = field(default_factory=Kv)
    router: Router = field(default_factory=Router)

    @property
    def moves_by_nixl(self) -> bool:
        """Whether its instances hand KV to one another by NIXL."""
        return bool(self.prefill) and self.kv.connector == "nixl"


class Ramp(Enum):
    linear = "linear"
    exponential = "exponential"


@dataclass
class RampUp:
    """A request rate that grows from one request to the next, by the request's place in the point and not by the clock."""

    start_per_s: int = 0  # whole numbers: vLLM's client takes no others; 0 both: no ramp
    end_per_s: int = 0
    shape: Ramp = Ramp.linear

    def __bool__(self) -> bool:
        return bool(self.start_per_s or self.end_per_s)


@dataclass
class PromptClass:
    """One class of a mix of prompts."""

    share: float = MISSING  # of the requests; the shares of a mix add up to 1
    input_len: int = MISSING  # tokens
    output_len: int = MISSING  # tokens
    spread: float = 0.0  # input lengths lie evenly within input_len × (1 ± spread)


@dataclass
class Trace:
    """What the columns of a trace are called, and what its numbers mean."""

    timestamp: str = "timestamp"  # a number, or a date and time in ISO 8601
    input_len: str = "input_length"  # tokens
    output_len: str = "output_length"  # tokens
    hash_ids: str = "hash_ids"  # may be missing: the blocks of each prompt by name, equal names for equal tokens
    hash_tokens: int = 512  # tokens in such a block
    seconds: float = 1.0  # that one unit of `timestamp` takes when it is replayed: 0.001 for ms, 0.0005 for ms at double speed


@dataclass
class Sweep:
    """The cross product of its four lists is a set of points; null request_rate: all at once, null max_concurrency: no bound. A
    length of 0 is as the data set has it."""

    input_len: list[int] = field(default_factory=lambda: [0])
    output_len: list[int] = field(default_factory=lambda: [0])
    request_rate: list[float | None] = field(default_factory=lambda: [None])
    max_concurrency: list[int | None] = field(default_factory=lambda: [None])
    mix: dict[str, PromptClass] = field(default_factory=dict)  # dataset=mix


@dataclass
class Until:
    """When a setting has been repeated enough, where starts=1. rel_ci null: after workload.repeats. Else from then on, until for
    this arm the 95 % interval of every metric's mean is within ±rel_ci of it, at most max_repeats times."""

    rel_ci: float | None = None
    max_repeats: int = 8
    metrics: list[str] = field(default_factory=lambda: ["output_throughput_tok_s", "mean_ttft_ms", "mean_tpot_ms"])


@dataclass
class Search:
    """The capacity of each arm, the highest request rate at which it meets the SLO, for every input_len × output_len of the sweeps.
    lowest null: no search, the sweeps' own rates are measured."""

    lowest: float | None = None  # requests/s
    highest: float = 64.0
    step: float = 1.25  # between two coarse rates of the sweep
    fine: int = 4  # steps into which each coarse step is divided; the capacity lies between two neighbouring fine rates
    beside: int = 1  # fine rates that are measured on each side of those two
    cover: float | None = None  # for other SLOs: coarse rates from the capacity / cover up to an overload are measured too
    beyond: int = 10  # requests that lie beyond the quantile slo.share of a point: as many as that needs are sent at least
    neighbours: int | None = None  # of the P/D arms only the ratio that saturated instances suggest, and so many beside it
    saturating_prompts: int = 1024  # sent to the plain arm first, to see which ratio it suggests
    drop_below: float | None = None  # arms below this share of the best of their kind in the first start are measured in no other


@dataclass
class Slo:
    """What a request has to keep to be good; null demands nothing."""

    name: str = "none"
    ttft_ms: float | None = None
    tpot_ms: float | None = None  # mean time per output token after the first
    e2el_ms: float | None = None
    share: float = 0.9  # of a point's requests that have to be good for its rate to meet the SLO
    smallest_difference: float = 0.05  # as a share: arms that surely differ by less are called the same; 0 calls none so

    @property
    def demands_nothing(self) -> bool:
        return self.ttft_ms is None and self.tpot_ms is None and self.e2el_ms is None


@dataclass
class Workload:
    """What the client sends, and when."""

    name: str = MISSING
    dataset: str = "random"  # random, mix, prefix_repetition, sharegpt, custom, trace
    dataset_path: str | None = None
    trace: Trace = field(default_factory=Trace)
    prefix_len: int | None = None  # dataset=prefix_repetition: tokens of the input that prompts share …
    num_prefixes: int | None = None  # … and how many different beginnings there are
    num_prompts: int | None = None  # requests of a point; of a closed loop with duration_s: different prompts, sent in turn
    prompts_per_concurrency: int | None = None  # closed loop: at most this many prompts for each of max_concurrency
    duration_s: float | None = None  # a fixed time instead of a fixed number; with a rate: rate × duration_s requests
    burstiness: float = 1.0  # of arrivals at a rate: 1 is a Poisson process, below 1 more bursty, above more even
    ramp_up: RampUp = field(default_factory=RampUp)  # instead of request_rate
    stream: bool = True  # false: whole answers, of which only the end-to-end latency is known
    prefix_caching: bool = False  # of every engine in every arm
    prefix_hit_rate: float | None = None  # with prefix_caching: the share of prompt tokens that you expect to hit
    one_seed: bool = False  # every point and repeat is sent with `seed` itself, as benchmark scripts do; to show what that measures
    sweeps: dict[str, Sweep] = field(default_factory=dict)
    starts: int = 1  # how often each set of engines is loaded: the next start's engines know nothing of the last one's
    repeats: int = 3  # of each point within a start
    until: Until = field(default_factory=Until)
    interleave: Interleave = Interleave.arms
    search: Search = field(default_factory=Search)
    warmup_prompts: int = 8  # sent through the router before an arm's first point; not recorded as a point
    extra_args: list[str] = field(default_factory=list)  # passed to `vllm bench serve` as they are

    @property
    def sure_repeats(self) -> int:
        """How often a setting is measured in any case, all starts together."""
        return self.starts * self.repeats

    def repeats_of(self, start: int) -> range:
        """The numbers of the repeats that may be measured in a start: they count through all starts."""
        if self.starts == 1 and self.until.rel_ci is not None:
            return range(max(self.repeats, self.until.max_repeats))
        return range(start * self.repeats, (start + 1) * self.repeats)


@dataclass
class Tune:
    """The settings that each kind of arm, plain and P/D, is tried with before arms are compared, so that each side is compared at
    its best. An option is one of `vllm serve`, as block_size; prefill.OPTION and decode.OPTION change one role of a P/D arm."""

    settings: int = 1  # tried of each kind, the arm's own options among them; 1: no arm is tuned
    rate: float | None = None  # requests/s at which they are tried; null: half of what the plain arm answers when saturated
    duration_s: float = 20.0  # of a trial in the first round; every later round has half the settings and twice the time
    rounds: int | None = None  # at most so many; null: until two settings are left
    plain: dict[str, list[Any]] = field(default_factory=dict)  # option → values beside the arm's own
    disaggregated: dict[str, list[Any]] = field(default_factory=dict)


@dataclass
class Runtime:
    """How an engine's command is started on its node: as it is, or inside a container of `image`, where its paths then are."""

    name: str = MISSING
    vllm: list[str] = field(default_factory=list)
    router: list[str] = field(default_factory=list)
    python: list[str] = field(default_factory=list)
    env: dict[str, Any] = field(default_factory=dict)  # text, as in Cluster
    kind: RuntimeKind = RuntimeKind.bare
    image: str | None = None  # a registry's reference, or the path of a tarball (docker, podman), .sif or .sqsh
    mounts: list[str] = field(default_factory=list)  # "/host:/inside", "/host:/inside:ro" or "/both"
    devices: list[str] | None = None  # paths, and the word nvidia for all GPUs; null: what the node has
    privileged: bool = False  # docker and podman
    program: list[str] = field(default_factory=list)  # for example [sudo, docker]; empty: named like the kind
    extra_args: list[str] = field(default_factory=list)  # passed to the container program after pdslurm's own options


@dataclass
class Launcher:
    """Who carries the plan out."""

    kind: LauncherKind = MISSING
    format: PlanFormat = PlanFormat.text
    wait: bool = True  # launcher=slurm: stay and show the progress; false: print the job's id and return
    arm: str | None = None  # launcher=script: which arm, where there are several
    file: str | None = None  # launcher=script: where to write it; null: standard output
    only_preflight: bool = False  # check every node and end; `python -m pdslurm.doctor` sets it


@dataclass
class Endpoint:
    """Where an arm runs already, for launcher=attach; addresses are http://HOST:PORT."""

    url: str = MISSING  # what the client talks to: the router, or the one engine
    both: list[str] = field(default_factory=list)  # its engines by role, as many as the topology has: for their counters and health
    prefill: list[str] = field(default_factory=list)
    decode: list[str] = field(default_factory=list)
    router_metrics: str | None = None  # vllm-router's http://HOST:PORT/metrics; null: nobody counts what each worker got


@dataclass
class Limits:
    """Deadlines in seconds for what is waited for, and how much the whole run may use; null: no limit."""

    start_s: float = 1800.0
    point_s: float = 3600.0
    stop_s: float = 15.0
    agents_s: float = 120.0  # from srun to an agent on every node
    lost_s: float = 4.0  # a node whose agent is silent for so long is lost
    orphan_s: float = 15.0  # a node whose agent hears nothing of the driver for so long ends everything of the run there
    wall_hours: float | None = None  # of all sessions of the run together, as gpu_hours
    gpu_hours: float | None = None
    session_hours: float | None = None  # of one session: the same command again goes on


@dataclass
class Budget:
    """What an answer may cost, and what a GPU costs."""

    gpu_hours: float | None = None  # of the whole run; it then ends with what it has, as under limits.gpu_hours
    price_per_gpu_hour: float | None = None  # for costs in the answer; in `currency`
    currency: str = "USD"


@dataclass
class Config:
    """One run: one arm (`topology`) or several (`arms`), on one cluster, with one model and one workload."""

    name: str = MISSING
    run_root: str = "runs"
    run_dir: str | None = None  # null: run_root/name-<hash of the configuration>, so that the same command resumes
    run_access: Access = Access.owner  # logs and prompts are nobody else's unless you say so
    seed: int = 0
    strict: bool = False  # a measurement whose decisive evidence is missing counts as invalid
    telemetry_every_s: float | None = None  # how often to look at engines while a point is measured; null: before and after only
    cluster: Cluster = field(default_factory=Cluster)
    model: Model = field(default_factory=Model)
    topology: Topology = field(default_factory=Topology)
    arms: dict[str, Topology] = field(default_factory=dict)
    splits: bool = False  # the arms are all ways to divide the instances of `topology` between prefill and decode, and Route of all
    attach: dict[str, Endpoint] = field(default_factory=dict)  # launcher=attach: arm → where it runs
    explained: dict[str, str] = field(default_factory=dict)  # differences between arms that are meant: fairness's name → the reason
    workload: Workload = field(default_factory=Workload)
    tune: Tune = field(default_factory=Tune)
    slo: Slo = field(default_factory=Slo)
    runtime: Runtime = field(default_factory=Runtime)
    launcher: Launcher = field(default_factory=Launcher)
    limits: Limits = field(default_factory=Limits)
    budget: Budget = field(default_factory=Budget)


def arms_of(config: Config) -> Mapping[str, Topology]:
    """The topologies to measure by name: `arms`, or the one `topology` under the run's name."""
    return config.arms or {config.name: config.topology}


def register() -> None:
    """Makes the schema known to Hydra; conf/config.yaml names it first in its defaults."""
    ConfigStore.instance().store(name="schema", node=Config)


def to_config(cfg: DictConfig) -> Config:
    """Resolved dataclasses from Hydra's DictConfig. Raises ConfigError for keys that the schema does not know, and omegaconf's
    MissingMandatoryValue for a value that is missing."""
    config = OmegaConf.to_object(cfg)
    assert isinstance(config, Config)
    if unknown := list(_unknown_keys(config, "")):
        raise ConfigError(unknown)
    for part in (config.cluster, config.runtime):
        part.env = {name: str(value) for name, value in part.env.items()}
    return config


def from_dict(values: dict[str, Any]) -> Config:
    """What `as_dict` made."""
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), values))
    assert isinstance(config, Config)
    return config


def as_dict(config: Config) -> dict[str, Any]:
    """Plain values, fit for JSON and YAML."""
    value = OmegaConf.to_container(OmegaConf.structured(config), enum_to_str=True)
    assert isinstance(value, dict)
    return {str(k): v for k, v in value.items()}


def _unknown_keys(value: Any, path: str) -> Iterator[str]:
    """Hydra refuses `topology.foo=1` but lets `+topology.foo=1` in, where nothing would ever read it."""
    if is_dataclass(value):
        known = [f.name for f in fields(value)]
        for name, inner in vars(value).items():
            if name in known:
                yield from _unknown_keys(inner, f"{path}{name}.")
            else:
                yield f"{path}{name}={inner}: no such key; {path.rstrip('.') or 'the configuration'} has {', '.join(known)}"
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _unknown_keys(inner, f"{path}{name}.")
