"use strict";
const root = document.documentElement;
const find = (selector, within = document) => within.querySelector(selector);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];

// Where: "#run" is a page, "#run-12" a detail of one.
async function go(focus) {
  const wanted = decodeURIComponent(location.hash.slice(1)) || find("main > section").id.slice(5);
  if (wanted === "main") return find("#main").focus();
  const detail = find(`option[data-piece][value="${CSS.escape(wanted)}"]`);
  const id = detail ? detail.closest("select").dataset.page : wanted;
  const section = document.getElementById("page-" + id) || find("main > section");
  for (const other of all("main > section")) other.classList.toggle("shown", other === section);
  for (const link of all("nav a")) {
    if ("page-" + link.hash.slice(1) === section.id) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const article = find("article", section);
  if (article) {
    const select = find("select[data-page]", section);
    // A page without an overview of its own opens with its first detail.
    const bare = !find(":scope > .scroll, :scope > figure", section);
    const shown = detail || (bare && select.options[1]);
    select.value = shown ? shown.value : "";
    article.hidden = !shown;
    if (shown) await unpack(shown, article);
    else article.replaceChildren();
  }
  if (focus) {
    (detail ? article : find("h2", section)).focus({ preventScroll: true });
    scrollTo(0, 0);
  }
  root.dataset.ready = wanted;
  performance.mark("ready");
}

// What a packed script element holds, as a Response.
function unpacked(id) {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip")));
}

async function unpack(option, article) {
  if (article.dataset.shows === option.value) return;
  const markup = JSON.parse(find("#markup").textContent);
  const short = (await unpacked("packed-" + option.dataset.piece).text()).split("\0")[option.dataset.place];
  article.innerHTML = short.replace(/[\x01-\x08\x0b\x0c\x0e-\x1f]/g, (code) => markup[code]);
  article.dataset.shows = option.value;
  for (const list of all(".metrics", article)) await listMetrics(list);
  for (const canvas of all("canvas[data-pack]", article)) await openTrace(canvas);
}

// Tables: a column's heading sorts by it, and again the other way.
function sort(button) {
  const th = button.closest("th"), table = th.closest("table"), body = table.tBodies[0];
  const place = th.cellIndex;
  const before = th.getAttribute("aria-sort");
  const down = before ? before === "ascending" : th.classList.contains("n");
  const value = (row) => {
    const cell = row.cells[place];
    if (cell.dataset.v !== undefined) return Number(cell.dataset.v);
    return cell.classList.contains("n") ? Number(cell.textContent.replace(/[,×%]/g, "").replace("–", "NaN")) : cell.textContent;
  };
  const compare = (a, b) => {
    const x = value(a), y = value(b);
    if (typeof x === "string" || typeof y === "string") return String(x).localeCompare(String(y), "en", { numeric: true });
    if (Number.isNaN(x) || Number.isNaN(y)) return (Number.isNaN(x) - Number.isNaN(y)) * (down ? -1 : 1);
    return x - y;
  };
  body.append(...[...body.rows].sort((a, b) => (down ? -compare(a, b) : compare(a, b))));
  for (const other of th.parentNode.cells) other.removeAttribute("aria-sort");
  th.setAttribute("aria-sort", down ? "descending" : "ascending");
}

// Code: a line and what belongs to it, in all listings of the detail.
function mark(button) {
  const key = button.closest("tr").dataset.key, on = button.getAttribute("aria-pressed") !== "true";
  const article = button.closest("article");
  for (const row of all("tr[data-key]", article)) {
    const mine = on && row.dataset.key === key;
    row.classList.toggle("marked", mine);
    find("button", row).setAttribute("aria-pressed", String(mine));
  }
  if (!on) return;
  for (const part of all("table.code", article)) {
    if (part.contains(button)) continue;
    const first = find("tr.marked", part), frame = part.parentNode;
    if (first) frame.scrollTop = first.offsetTop - frame.clientHeight / 3;
  }
}

const themes = ["system", "light", "dark"];
function theme(next) {
  const now = root.dataset.theme || "system";
  const chosen = next ? themes[(themes.indexOf(now) + 1) % themes.length] : now;
  if (chosen === "system") delete root.dataset.theme;
  else root.dataset.theme = chosen;
  try { localStorage.setItem("autotune-theme", chosen === "system" ? "" : chosen); } catch { /* it lasts until the page is closed */ }
  find("#theme").textContent = "Theme: " + chosen;
  for (const canvas of all("canvas[data-pack]")) canvas.redraw?.();
}

const tip = find("#tip");
document.addEventListener("pointerover", (event) => {
  const touched = event.target.closest && event.target.closest("[data-tip]");
  const text = touched && touched.dataset.tip;
  tip.hidden = !text;
  if (!text) return;
  tip.textContent = text;
  const x = Math.min(event.clientX + 12, innerWidth - tip.offsetWidth - 8);
  tip.style.left = Math.max(x, 4) + "px";
  tip.style.top = Math.max(event.clientY - tip.offsetHeight - 10, 4) + "px";
});
document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.id === "theme") theme(true);
  else if (button.closest("table.code")) mark(button);
  else if (button.closest("th")) sort(button);
});
document.addEventListener("change", (event) => {
  const select = event.target.closest("select[data-page]");
  if (select) location.hash = select.value || select.dataset.page;
});
document.addEventListener("input", (event) => {
  const list = event.target.closest(".metrics");
  if (list) searchMetrics(list);
});
addEventListener("hashchange", () => go(true));
theme(false);
go(location.hash.length > 1);

const live = find('meta[name="live"]');
if (live) {
  let known = null;
  const ask = async () => {
    try {
      const answer = await fetch(live.content, { cache: "no-store" });
      const version = answer.ok ? await answer.text() : known;
      if (known && version !== known) find("#news").hidden = false;
      known = known || version;
    } catch { /* the server has ended; what is shown stays true of then */ }
  };
  ask();
  setInterval(ask, 4000);
}
