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

  const opened = () => {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let box = target && target.closest("details"); box; box = box.parentElement.closest("details")) box.open = true;
    if (target) target.scrollIntoView();
  };
  window.addEventListener("hashchange", opened);
  opened();
})();
