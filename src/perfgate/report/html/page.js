"use strict";
// Draws plots when they are about to be seen, opens the cell that a link names, and filters. Everything else is in the document.
(() => {
  const read = (element) => JSON.parse(element.textContent);
  const byId = (id) => document.getElementById(id);
  const specifications = read(byId("specifications"));
  const cells = [...document.querySelectorAll("details.cell")];
  const font = "system-ui, sans-serif";
  const ink = { labelColor: "var(--quiet)", titleColor: "var(--text)", labelFont: font, titleFont: font };
  const config = {
    background: "transparent",
    font,
    view: { stroke: null },
    axis: { ...ink, gridColor: "var(--line)", domainColor: "var(--line)", tickColor: "var(--line)", titleFontWeight: 500 },
    legend: { ...ink, symbolLimit: 12 },
    aria: false, // one label a plot, and the table beside it, say more than a label a mark
  };

  // Columns back to rows; a column of texts is a list of distinct ones and positions in it.
  const rowsOf = (columns) => {
    const fields = Object.entries(columns).map(([name, c]) => [name, Array.isArray(c) ? c : c.at.map((i) => c.of[i])]);
    const length = fields.length ? fields[0][1].length : 0;
    return Array.from({ length }, (_, i) => Object.fromEntries(fields.map(([name, values]) => [name, values[i]])));
  };

  const specification = ({ kind, data: packed, labels }) => {
    const data = Object.fromEntries(Object.entries(packed).map(([name, columns]) => [name, rowsOf(columns)]));
    const made = structuredClone(specifications[kind]);
    const sets = Object.keys(data);
    const named = new Set(JSON.stringify(made).match(/"name":"[a-z]+"/g) || []);
    if (!named.has('"name":"rows"') && sets.includes("rows")) made.data = { name: "rows" };
    // A layer without its data would draw an empty scale.
    if (made.layer) made.layer = made.layer.filter((layer) => !layer.data || (data[layer.data.name] || []).length);
    if (made.height.step) {
      const field = made.encoding.y.field;
      made.height = made.height.step * new Set((data.rows || []).map((row) => row[field])).size;
    }
    const title = (encoding) => {
      for (const [channel, text] of Object.entries(labels)) {
        if (encoding && encoding[channel] && encoding[channel].field) encoding[channel].title = text;
      }
    };
    title(made.encoding);
    (made.layer || []).forEach((layer) => title(layer.encoding));
    return {
      $schema: "https://vega.github.io/schema/vega-lite/v6.json",
      width: "container",
      autosize: { type: "fit-x", contains: "padding" },
      config,
      ...made,
      datasets: data,
    };
  };

  // The library is most of the file: it runs once the first plot is due, after the page can be read.
  const library = () => {
    const text = byId("library");
    if (!text) return;
    const script = document.createElement("script");
    script.textContent = text.textContent;
    text.remove();
    document.head.append(script);
  };

  const drawn = new WeakSet();
  const draw = async (place, chart) => {
    if (drawn.has(place)) return;
    drawn.add(place);
    try {
      library();
      await vegaEmbed(place, specification(chart), { renderer: "svg", actions: false, ast: true, tooltip: { theme: "custom" } });
    } catch (error) {
      place.classList.add("failed");
      place.textContent = "This plot could not be drawn; the table has its numbers.";
      console.error(error);
    }
    // The place has one label for all of it; Vega's own roles inside have none.
    place.querySelector("svg")?.setAttribute("aria-hidden", "true");
    place.dataset.drawn = "yes";
  };

  const charts = new WeakMap();
  const seen = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        seen.unobserve(entry.target);
        draw(entry.target, charts.get(entry.target));
      }
    },
    { rootMargin: "200px" },
  );
  const watch = (root, list) => {
    for (const place of root.querySelectorAll(".plot")) {
      charts.set(place, list[Number(place.dataset.plot)]);
      seen.observe(place);
    }
  };

  const add = (parent, name, text, attributes = {}) => {
    const element = parent.appendChild(document.createElement(name));
    if (text !== undefined) element.textContent = text;
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  };
  const unfold = (place, { headings, rows }) => {
    const caption = place.querySelector("summary").textContent;
    const frame = add(place, "div", undefined, { class: "scroll", role: "group", tabindex: "0", "aria-label": caption });
    const table = add(frame, "table");
    const top = table.createTHead().insertRow();
    for (const heading of headings) add(top, "th", heading, { scope: "col" });
    const body = table.createTBody();
    for (const [first, ...rest] of rows) {
      const row = body.insertRow();
      add(row, "th", first, { scope: "row" });
      for (const text of rest) add(row, "td", text);
    }
  };
  const foldable = (place, content) => {
    const once = () => {
      if (!place.open) return;
      place.removeEventListener("toggle", once);
      unfold(place, content());
    };
    place.addEventListener("toggle", once);
  };

  let settings;
  const opened = (cell) => {
    const source = cell.querySelector(":scope > script.data");
    if (!cell.open || !source) return;
    const body = cell.querySelector(":scope > script.body");
    if (body) {
      // The template escaped it, as it does where a page is small enough to hold its cells unpacked.
      const place = document.createElement("div");
      place.className = "body";
      place.innerHTML = read(body);
      body.replaceWith(place);
    }
    const data = read(source);
    source.remove();
    watch(cell, data.plots);
    for (const place of cell.querySelectorAll("details[data-table]")) {
      foldable(place, () => data.tables[Number(place.dataset.table)]);
    }
    for (const place of cell.querySelectorAll("details[data-settings]")) {
      foldable(place, () => {
        settings ??= read(byId("settings"));
        return { headings: ["setting", "value"], rows: settings[Number(place.dataset.settings)] };
      });
    }
  };
  for (const cell of cells) {
    cell.addEventListener("toggle", () => opened(cell));
    opened(cell);
  }
  if (byId("overview-data")) watch(byId("overview-plots"), read(byId("overview-data")));

  const follow = () => {
    const target = /^#cell-\d+$/.test(location.hash) && byId(location.hash.slice(1));
    if (!target) return;
    target.hidden = false;
    target.open = true;
    target.scrollIntoView();
    target.querySelector("summary").focus({ preventScroll: true });
  };
  addEventListener("hashchange", follow);
  // A second click on the same link changes no hash.
  document.addEventListener("click", (event) => {
    if (event.target.closest && event.target.closest('a[href^="#cell-"]')) setTimeout(follow);
  });
  follow();

  const form = document.querySelector(".filter");
  if (!form) return;
  form.hidden = false;
  const rows = [...document.querySelectorAll("tr[data-cell]")];
  const filter = () => {
    const words = byId("find").value.toLowerCase().split(/\s+/).filter(Boolean);
    const only = byId("only").value;
    let count = 0;
    rows.forEach((row, position) => {
      const text = row.textContent.toLowerCase();
      const shown = (!only || row.dataset.verdict === only) && words.every((word) => text.includes(word));
      row.hidden = cells[position].hidden = !shown;
      count += shown;
    });
    byId("found").textContent = `${count} of ${rows.length} cells`;
  };
  form.addEventListener("submit", (event) => event.preventDefault());
  byId("find").addEventListener("input", filter);
  byId("only").addEventListener("change", filter);
  byId("open-all").addEventListener("click", () => {
    for (const cell of cells) if (!cell.classList.contains("good") && !cell.hidden) cell.open = true;
  });
  byId("close-all").addEventListener("click", () => {
    for (const cell of cells) cell.open = false;
  });
})();
