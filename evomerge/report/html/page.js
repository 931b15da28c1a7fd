"use strict";
(() => {
  const root = document.documentElement;
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const plots = [...document.querySelectorAll(".plot")];
  const specs = new Map(plots.map((box) => [box.id, read(`${box.id}-spec`)]));

  // ---- theme: as the system says, until the reader says otherwise
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const button = document.getElementById("theme");
  const order = ["auto", "light", "dark"];
  let theme = "auto";
  try { theme = localStorage.getItem("evomerge-theme") || "auto"; } catch { /* a private window */ }
  if (!order.includes(theme)) theme = "auto";

  function dress() {
    root.dataset.theme = theme === "auto" ? (system.matches ? "dark" : "light") : theme;
    button.textContent = `Theme: ${theme}`;
    button.setAttribute("aria-label", `Theme: ${theme === "auto" ? "as the system" : theme}; change`);
  }
  button.addEventListener("click", () => {
    theme = order[(order.indexOf(theme) + 1) % order.length];
    try { localStorage.setItem("evomerge-theme", theme); } catch { /* a private window */ }
    dress();
    drawAll();
  });
  system.addEventListener("change", () => { if (theme === "auto") { dress(); drawAll(); } });
  dress();

  // ---- figures: colours are CSS variables, looked up here
  let colours = new Map();
  function colour(name) {
    if (!colours.has(name)) colours.set(name, getComputedStyle(root).getPropertyValue(name).trim());
    return colours.get(name);
  }
  const scale = (letter) =>
    [0, 1, 2, 3, 4].map((step) => [step / 4, colour(`--${letter}${step}`)]);

  function resolved(value, key) {
    if (typeof value === "string") {
      if (key === "colorscale") return scale(value === "diverging" ? "d" : "s");
      const found = /^var\((--[a-z0-9]+)\)$/.exec(value);
      return found ? colour(found[1]) : value;
    }
    if (Array.isArray(value)) {
      // long columns of numbers and texts hold no colours
      return value.length && typeof value[0] === "object" ? value.map((v) => resolved(v)) : value;
    }
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, resolved(v, k)]));
    }
    return value;
  }

  function framed(axis, narrow) {
    return {
      automargin: true, gridcolor: colour("--faint"), linecolor: colour("--line"), zeroline: false,
      tickcolor: colour("--line"), ...axis, fixedrange: narrow,
      title: { standoff: 10, ...(axis || {}).title },
    };
  }

  function draw(box) {
    const spec = specs.get(box.id);
    const narrow = box.clientWidth < 520;
    const layout = resolved(spec.layout);
    const full = {
      ...layout,
      xaxis: framed(layout.xaxis, narrow), yaxis: framed(layout.yaxis, narrow),
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: narrow ? 11 : 13,
              color: colour("--text") },
      margin: { l: 10, r: 10, t: 10, b: 10 },
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: narrow ? 11 : 12 } },
      hoverlabel: { align: "left", bgcolor: colour("--card"), bordercolor: colour("--line"),
                    font: { color: colour("--text"), size: 12,
                            family: getComputedStyle(document.body).fontFamily } },
      dragmode: narrow ? false : "zoom",
    };
    const traces = resolved(spec.data).map((trace) => {
      for (const key of ["error_x", "error_y"]) {
        if (trace[key]) trace[key] = { color: trace.marker.color, ...trace[key] };
      }
      // where there is little room, the legend names what is no source
      if (narrow && trace.mode === "markers+text" && trace.hovertext && !trace.legendgroup) {
        trace.mode = "markers";
      }
      if (trace.type === "heatmap") {
        trace.colorbar = { ...trace.colorbar, tickfont: { color: colour("--soft"), size: 11 } };
      }
      return trace;
    });
    const options = { responsive: true, displaylogo: false, displayModeBar: false, showTips: false };
    return Plotly.react(box, traces, full, options);
  }

  let drawing = Promise.resolve();
  function drawAll() {
    colours = new Map();
    for (const box of plots) {
      if (box.closest("details:not([open])")) continue;
      drawing = drawing.then(() => new Promise((done) => setTimeout(done))).then(() => draw(box));
    }
    drawing = drawing.then(() => { root.dataset.drawn = root.dataset.theme; });
  }
  drawAll();

  // ---- selects that change what an axis shows
  for (const select of document.querySelectorAll("select[data-plot]")) {
    select.addEventListener("change", () => {
      const { plot, axis } = select.dataset;
      const spec = specs.get(plot);
      for (const trace of spec.data) {
        const meta = trace.meta || {};
        if (meta.values) trace[axis] = meta.values[select.value];
        if (meta.errors) trace[`error_${axis}`] = { ...trace[`error_${axis}`], array: meta.errors[select.value] };
      }
      const escaped = new Option(select.value).innerHTML;
      spec.layout[`${axis}axis`].title.text = escaped;
      draw(document.getElementById(plot));
    });
  }

  // ---- the item table's filters
  const flips = document.getElementById("flips");
  if (flips) {
    const controls = [...document.querySelectorAll("[data-filter]")];
    const count = document.querySelector(".filters output");
    const rows = [...flips.tBodies[0].rows];
    const filter = () => {
      const want = Object.fromEntries(controls.map((c) =>
        [c.dataset.filter, c.type === "checkbox" ? c.checked : c.value]));
      let shown = 0;
      for (const row of rows) {
        const { task, gained, lost, cut } = row.dataset;
        const ways = [want.way !== "lost" && gained, want.way !== "gained" && lost];
        const models = ways.filter(Boolean).join(" ").split(" ").filter(Boolean);
        const fits = (want.parent ? models.includes(want.parent) : models.length > 0)
          && (!want.task || task === want.task) && (!want.cut || cut === "1");
        row.hidden = !fits;
        shown += fits ? 1 : 0;
      }
      count.textContent = `${shown} items`;
    };
    for (const control of controls) control.addEventListener("change", filter);
  }

  // ---- copy buttons; a page opened from a file may not have the clipboard's newer interface
  for (const copy of document.querySelectorAll("[data-copy]")) {
    copy.addEventListener("click", async () => {
      const source = document.getElementById(copy.dataset.copy);
      try {
        await navigator.clipboard.writeText(source.textContent);
      } catch {
        getSelection().selectAllChildren(source);
        document.execCommand("copy");
      }
      copy.textContent = "Copied";
      setTimeout(() => { copy.textContent = "Copy"; }, 1500);
    });
  }
})();
