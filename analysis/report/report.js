// What each mark carries in data-tip goes into the tip on hover and focus; a click pins it, Escape closes it. Text only ever goes in as text.
"use strict";
(() => {
  const tip = document.getElementById("tip");
  let at = null, pinned = false, leaving = 0;

  const add = (parent, name, text, kind) => {
    const element = parent.appendChild(document.createElement(name));
    element.textContent = text;
    if (kind) element.className = kind;
    return element;
  };

  // Beside the mark, so that what stands above and below it stays in sight; above or below it where there is no room.
  const place = (point) => {
    const box = (point.querySelector(".mark") || point).getBoundingClientRect();
    const width = tip.offsetWidth, height = tip.offsetHeight;
    const wide = document.documentElement.clientWidth, high = document.documentElement.clientHeight;
    const beside = box.right + 14 + width < wide ? box.right + 14 : box.left - 14 - width;
    let left = beside, top = Math.max(Math.min(box.top + box.height / 2 - height / 2, high - height - 8), 56);
    if (beside < 8) {
      left = Math.min(Math.max(box.left + box.width / 2 - width / 2, 8), wide - width - 8);
      top = box.top - height - 10 > 48 ? box.top - height - 10 : box.bottom + 10;
    }
    tip.style.left = `${left + window.scrollX}px`;
    tip.style.top = `${top + window.scrollY}px`;
  };

  const show = (point) => {
    clearTimeout(leaving);
    if (pinned && point !== at) return;
    const said = JSON.parse(point.dataset.tip);
    at = point;
    tip.replaceChildren();
    add(tip, "strong", said.arm);
    add(tip, "p", said.setting, "soft");
    add(tip, "p", said.measure, "soft");
    add(tip, "p", said.value, "value");
    add(tip, "p", `${said.spread}; ${said.n}`);
    const list = said.links.length ? tip.appendChild(document.createElement("ul")) : null;
    for (const [text, address] of said.links) {
      const link = add(add(list, "li", ""), "a", text);
      link.setAttribute("href", address);
    }
    tip.hidden = false;
    place(point);
  };

  const hide = () => { tip.hidden = true; pinned = false; at = null; };
  const leave = () => { if (!pinned) leaving = setTimeout(hide, 250); };

  for (const point of document.querySelectorAll(".point")) {
    const native = point.querySelector("title");
    if (native) native.remove(); // else the browser shows a second tip
    point.addEventListener("mouseenter", () => show(point));
    point.addEventListener("mouseleave", leave);
    point.addEventListener("focus", () => show(point));
    point.addEventListener("blur", leave);
    point.addEventListener("click", (event) => {
      event.preventDefault();
      pinned = false;
      show(point);
      pinned = true;
      if (event.detail === 0) (tip.querySelector("a") || tip).focus(); // by keyboard: on to the links
    });
  }
  tip.addEventListener("mouseenter", () => clearTimeout(leaving));
  tip.addEventListener("mouseleave", leave);
  tip.addEventListener("focusin", () => clearTimeout(leaving));
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !at) return;
    const back = at;
    hide();
    back.focus();
    hide();
  });
  document.addEventListener("click", (event) => {
    if (pinned && !tip.contains(event.target) && !event.target.closest(".point")) hide();
  });

  for (const button of document.querySelectorAll(".swatch")) {
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") !== "true", name = button.dataset.series;
      for (const other of document.querySelectorAll(".swatch"))
        if (other.dataset.series === name) other.setAttribute("aria-pressed", String(on));
      for (const series of document.querySelectorAll(".chart .series"))
        if (series.dataset.series === name) series.classList.toggle("off", !on);
    });
  }

  // A panel of SLOs: a cell is one string, its parts between bars; the page's templates make sentences of them.
  const fill = (text, values) => text.replace(/\{(\w+)\}/g, (all, name) => (Object.hasOwn(values, name) ? values[name] : all));

  const panel = (box) => {
    const data = JSON.parse(box.dataset.map), says = box.querySelector(".says"), choice = box.querySelector("select");
    const fields = [...box.querySelectorAll(".map .field")], shares = [...box.querySelectorAll(".share")];
    let share = data.share, chosen = null;

    const parts = (cell) => {
      const [kind, mark, pd, plain, ratio, ...capacities] = cell.split("|");
      return { kind: data.kinds[kind], mark, pd: data.arms[pd] || "", plain: data.arms[plain] || "", ratio, capacities };
    };
    const at = (n) => ({ n, ttft: data.bounds[n][0], tpot: data.bounds[n][1], share, cell: data.cells[share][n] });
    const say = (one) => {
      const said = parts(one.cell), words = fill(said.kind.says, said);
      says.replaceChildren();
      add(says, "p", fill(data.sentence, { ...one, words }));
      const list = says.appendChild(document.createElement("ul"));
      said.capacities.forEach((text, arm) => add(list, "li", `${data.arms[arm]}: ${text} requests/s per GPU`));
    };
    const choose = (one) => {
      chosen = one;
      fields.forEach((field, n) => {
        field.tabIndex = n === (one.n ?? 0) ? 0 : -1;
        if (n === one.n) field.setAttribute("aria-current", "true");
        else field.removeAttribute("aria-current");
      });
      say(one);
    };
    const paint = () => {
      fields.forEach((field, n) => {
        const said = parts(data.cells[share][n]);
        field.className = field.className.replace(/f-\w+/, `f-${said.kind.style}`);
        field.textContent = said.mark;
        const preset = field.dataset.preset ? `, ${field.dataset.preset}` : "";
        field.setAttribute("aria-label", `${said.kind.legend}, ${said.mark}${preset}`);
      });
      for (const button of shares) button.setAttribute("aria-pressed", String(button.dataset.share === share));
    };
    const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -data.columns, ArrowDown: data.columns };

    fields.forEach((field, n) => {
      field.addEventListener("mouseenter", () => say(at(n)));
      field.addEventListener("mouseleave", () => say(chosen));
      field.addEventListener("focus", () => say(at(n)));
      field.addEventListener("blur", () => say(chosen));
      field.addEventListener("click", () => { choice.value = ""; choose(at(n)); });
      field.addEventListener("keydown", (event) => {
        const step = moves[event.key];
        if (!step) return;
        event.preventDefault();
        const to = n + step, row = Math.floor(n / data.columns);
        if (to < 0 || to >= fields.length || (Math.abs(step) === 1 && Math.floor(to / data.columns) !== row)) return;
        fields[to].focus();
      });
    });
    for (const button of shares) {
      button.addEventListener("click", () => {
        share = button.dataset.share;
        choice.value = "";
        paint();
        choose(at(chosen.n ?? data.chosen));
      });
    }
    choice.addEventListener("change", () => {
      if (choice.value === "") return;
      const [ttft, tpot, asked, cell] = data.presets[choice.value];
      share = asked;
      paint();
      const n = data.bounds.findIndex((bound) => bound[0] === ttft && bound[1] === tpot);
      choose(n < 0 ? { ttft, tpot, share, cell } : at(n));
    });
    box.querySelector(".controls").hidden = false;
    box.querySelector(".row").hidden = true;
    choose(at(data.chosen));
  };
  for (const box of document.querySelectorAll(".which")) panel(box);

  const opened = () => {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let box = target && target.closest("details"); box; box = box.parentElement.closest("details")) box.open = true;
    if (target) target.scrollIntoView();
  };
  window.addEventListener("hashchange", opened);
  opened();
})();
