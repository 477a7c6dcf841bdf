"use strict";
// render({ model, el }) is the front end of an anywidget; a saved page hands it a model of its own.
const NARROW = 560;
const TWO_COLUMNS = 820;
// A finger that moves over a figure scrolls the page; a mouse circles samples, however narrow the panel.
const circles = () => !window.matchMedia("(pointer: coarse)").matches;
const NAMED_PAIRS = 8;
const LISTED = 12;
const COLOURS = { task: "task", family: "family", condition: "prompt", answer: "answer" };

function safe(text) {
  return text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}

function wrapped(text, width = 52) {
  const lines = [""];
  for (const word of text.split(/\s+/)) {
    if (lines.at(-1) && lines.at(-1).length + word.length >= width) lines.push("");
    lines[lines.length - 1] += (lines.at(-1) ? " " : "") + word;
  }
  return lines.map(safe).join("<br>");
}

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// plotly.js travels compressed. The page around a widget may hold another version: it keeps it.
async function unpack(packed, version) {
  const theirs = window.Plotly;
  if (theirs?.version === version) return theirs;
  const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
  const ours = window.Plotly;
  if (theirs) window.Plotly = theirs;
  return ours;
}

// A notebook's own theme goes before the system's.
function isDark(media) {
  for (const where of [() => document.body, () => window.parent.document.body]) {
    try {
      const { jpThemeLight, vscodeThemeKind } = where().dataset;
      if (jpThemeLight) return jpThemeLight === "false";
      if (vscodeThemeKind) return vscodeThemeKind.includes("dark");
    } catch {
      // The page around belongs to someone else.
    }
  }
  return media.matches;
}

// The most frequent answers of the shown tasks have colours; an answer that is given once is no class.
function answerColours(data, tasks) {
  const counts = new Map();
  for (const { gold } of tasks.flatMap((task) => task.samples)) if (gold) counts.set(gold, (counts.get(gold) ?? 0) + 1);
  const common = [...counts].filter(([, count]) => count > 1).sort((a, b) => b[1] - a[1]).slice(0, data.palette.length);
  return new Map(common.map(([gold], place) => [gold, data.palette[place]]));
}

// What is to be seen now: the chosen tasks, each sample with its colour, whether it is selected.
function scene(data, model) {
  const layer = Math.max(0, data.layers.indexOf(model.get("layer")));
  const shown = new Set(model.get("shown"));
  const selected = new Set(model.get("selected").map(([task, id]) => `${task}\n${id}`));
  const colour = model.get("colour");
  const tasks = data.tasks.map((task, place) => ({ ...task, place })).filter((task) => shown.has(task.name));
  const answers = answerColours(data, tasks);
  const keyOf = { task: (task) => task.name, family: (task) => task.family, condition: () => "", answer: (task, sample) => (answers.has(sample.gold) ? sample.gold : "other answers") };
  const colourOf = { task: (task) => task.colour, family: (task) => data.families[task.family], condition: () => data.neutral, answer: (task, sample) => answers.get(sample.gold) ?? data.neutral };
  const samples = tasks.flatMap((task) => task.samples.map((sample, index) => ({
    task, index, ...sample, key: keyOf[colour](task, sample), paint: colourOf[colour](task, sample),
    selected: selected.has(`${task.name}\n${sample.id}`),
  })));
  const projection = data.projections[model.get("projection")] ?? data.projections.pca;
  const drawn = projection.layers.reduce((best, one) => (Math.abs(one - data.layers[layer]) < Math.abs(best - data.layers[layer]) ? one : best));
  return { layer, tasks, samples, colour, drawn, projection, planar: model.get("projection") !== "umap", plane: projection.planes[projection.layers.indexOf(drawn)], any: samples.some((one) => one.selected) };
}

// Groups that are drawn alike, the selected ones last, so that they lie on top.
function groups(now) {
  const found = new Map();
  for (const sample of now.samples) {
    const name = `${sample.selected}|${sample.key}|${sample.task.name}`;
    if (!found.has(name)) found.set(name, []);
    found.get(name).push(sample);
  }
  return [...found.values()].sort((a, b) => a[0].selected - b[0].selected);
}

function about(data, sample) {
  const text = sample.text ? `<br>${wrapped(sample.text)}` : `<br>${safe(sample.id)}`;
  return `<b>${safe(sample.task.name)}</b>${text}${sample.gold ? `<br>answer: <b>${safe(sample.gold)}</b>` : ""}`;
}

function cloud(data, now) {
  const { planar, plane, colour } = now;
  const named = new Set();
  const byCondition = colour === "condition";
  const traces = groups(now).map((members) => {
    const { task, key, paint, selected } = members[0];
    const sides = (sample) => plane.points[sample.task.place].slice(4 * sample.index, 4 * sample.index + 4);
    const both = byCondition ? data.conditions : [paint, paint];
    // In colours by task the task list above is the legend.
    const first = colour !== "task" && key && !named.has(key);
    named.add(key);
    return {
      type: "scatter", mode: planar ? "lines+markers" : "markers", name: key, legendgroup: key, showlegend: Boolean(first),
      // Where angles follow the previous point, a first point is not drawn: the start stands there twice.
      x: members.flatMap((one) => [sides(one)[0], sides(one)[0], sides(one)[2], null]),
      y: members.flatMap((one) => [sides(one)[1], sides(one)[1], sides(one)[3], null]),
      customdata: members.flatMap((one) => Array(4).fill([task.name, one.id])),
      text: members.flatMap((one) => [0, 0, 1, 1].map((side) => `${about(data, one)}<br>${data.sides[side]}`)),
      hovertemplate: "%{text}<extra></extra>",
      opacity: now.any ? (selected ? 1 : 0.12) : 0.7,
      line: { color: byCondition ? data.neutral : paint, width: selected && !byCondition ? 2 : 1 },
      marker: {
        color: members.flatMap(() => [both[0], both[0], both[1], data.neutral]), opacity: 1,
        symbol: members.flatMap(() => (planar ? ["circle", "circle", "arrow", "circle"] : ["circle-open", "circle-open", "circle", "circle"])),
        size: members.flatMap(() => (planar ? [0, 5, 8, 0] : [0, 7, 7, 0])),
        angleref: planar ? "previous" : "up", line: { width: planar ? 0 : 1.5 },
      },
    };
  });
  if (byCondition) {
    data.sides.forEach((side, place) => traces.push({ type: "scatter", mode: "markers", name: side, x: [null], y: [null], marker: { color: data.conditions[place], size: 9, symbol: planar && place ? "arrow" : "circle" } }));
  }
  return planar ? [...traces, ...means(data, now)] : traces;
}

function means(data, now) {
  return now.tasks.map((task) => {
    const points = now.plane.points[task.place];
    const middle = [0, 1, 2, 3].map((part) => task.samples.reduce((sum, _, index) => sum + points[4 * index + part], 0) / task.samples.length);
    const paint = { task: task.colour, family: data.families[task.family] }[now.colour] ?? data.text[now.theme];
    return {
      type: "scatter", mode: "lines+markers", showlegend: false, x: [middle[0], middle[0], middle[2]], y: [middle[1], middle[1], middle[3]],
      opacity: now.any ? 0.35 : 1, line: { color: paint, width: 4 },
      marker: { color: paint, symbol: [task.symbol, task.symbol, "arrow"], size: [0, 9, 18], angleref: "previous", opacity: 1, line: { width: 0 } },
      hovertemplate: `<b>${safe(task.name)}</b>: mean of ${task.samples.length} samples<extra></extra>`,
    };
  });
}

function agreement(data, now) {
  return groups(now).map((members) => {
    const { task, paint, selected } = members[0];
    const shade = now.colour === "condition" ? task.colour : paint;
    return {
      type: "scatter", mode: "markers", showlegend: false,
      x: members.map((one) => task.cosine[now.layer][one.index]), y: members.map((one) => task.length[now.layer][one.index]),
      customdata: members.map((one) => [task.name, one.id]), text: members.map((one) => about(data, one)),
      hovertemplate: "%{text}<br>cosine %{x:.2f}, length %{y:.3g}<extra></extra>",
      marker: { color: shade, symbol: task.symbol, size: selected ? 10 : 7, opacity: now.any ? (selected ? 1 : 0.15) : 0.7, line: { width: 0 } },
    };
  });
}

function square(data, now, width) {
  const names = now.tasks.map((task) => task.name);
  const cosine = new Map(data.pairs.map((pair) => [`${pair.a}\n${pair.b}`, pair.cosine[now.layer]]));
  const z = names.map((a) => names.map((b) => (a === b ? 1 : cosine.get(`${a}\n${b}`) ?? cosine.get(`${b}\n${a}`) ?? null)));
  const roomy = (width - 170) / Math.max(1, names.length) > 34;
  return [{ type: "heatmap", x: names, y: names, z, coloraxis: "coloraxis", texttemplate: roomy ? "%{z:.2f}" : "", hovertemplate: "%{y} – %{x}<br>cosine %{z:.2f}<extra></extra>", xgap: 1, ygap: 1 }];
}

function outline(layers, low, high) {
  return { x: [...layers, ...layers.toReversed()], y: [...high, ...low.toReversed()], fill: "toself", mode: "lines", type: "scatter", line: { width: 0 }, hoverinfo: "skip", showlegend: false };
}

function curves(data, now) {
  const names = new Set(now.tasks.map((task) => task.name));
  const pairs = data.pairs.filter((pair) => names.has(pair.a) && names.has(pair.b));
  if (!pairs.length) return [];
  const each = pairs.length <= NAMED_PAIRS;
  const traces = [];
  for (const [key, name, alpha] of [["null_pairs", "null: no change of prompt", "29"], ["null_random", "null: random directions", "4d"]]) {
    const low = data.layers.map((_, place) => Math.min(...pairs.map((pair) => pair[`${key}_low`][place] ?? 0)));
    const high = data.layers.map((_, place) => Math.max(...pairs.map((pair) => pair[`${key}_high`][place] ?? 0)));
    traces.push({ ...outline(data.layers, low, high), fillcolor: data.neutral + alpha, name, showlegend: true });
  }
  const named = new Set();
  pairs.forEach((pair, place) => {
    const colour = each ? data.palette[place % data.palette.length] : pair.colour;
    const name = each ? `${pair.a} – ${pair.b}` : pair.entry;
    if (each) traces.push({ ...outline(data.layers, pair.low, pair.high), fillcolor: `${colour}40`, legendgroup: name });
    traces.push({
      type: "scatter", mode: "lines", x: data.layers, y: pair.cosine, name, legendgroup: name, showlegend: !named.has(name), opacity: each ? 1 : 0.65,
      line: { color: colour, width: 2, dash: each ? "solid" : pair.dash }, customdata: data.layers.map((_, at) => [pair.low[at], pair.high[at]]),
      hovertemplate: `${safe(pair.a)} – ${safe(pair.b)}<br>layer %{x}: cosine %{y:.2f} [%{customdata[0]:.2f}, %{customdata[1]:.2f}]<extra></extra>`,
    });
    named.add(name);
  });
  return traces;
}

// Entries stand in rows below the axes; their widths are not known before drawing, so this is on the safe side.
function legendHeight(traces, width) {
  const names = traces.filter((trace) => trace.showlegend ?? trace.name).map((trace) => trace.name);
  const row = Math.max(1, Math.floor(width / (70 + 7 * Math.max(0, ...names.map((name) => name.length)))));
  return 26 * Math.ceil(names.length / row);
}

function panels(data, now, width) {
  const layer = data.layers[now.layer];
  const share = (place) => (now.plane.explained ? `principal component ${place + 1} (${Math.round(100 * now.plane.explained[place])} % of variance)` : `UMAP ${place + 1}`);
  const few = now.tasks.length < 2;
  const away = now.drawn === layer ? `layer ${layer}` : `layer ${now.drawn}, the nearest that was fitted`;
  const legend = { orientation: "h", x: 0, y: -0.14, yanchor: "top" };
  const still = { xaxis: { fixedrange: true }, yaxis: { fixedrange: true } };
  return {
    cloud: {
      title: now.planar ? `Activations, ${away}` : `Activations by UMAP, ${away}`,
      caption: now.planar ? "From the zero-shot (dot) to the few-shot prompt (arrowhead). Bold: means of the tasks. The plane is fitted on all tasks, shown or not." : "Hollow: zero-shot; filled: few-shot. UMAP keeps neighbours together; directions and distances in it mean nothing.",
      traces: cloud(data, now), height: 500,
      layout: { xaxis: { title: { text: share(0) }, zeroline: false }, yaxis: { title: { text: share(1) }, zeroline: false, ...(now.planar ? { scaleanchor: "x" } : {}) }, legend, dragmode: circles() ? "lasso" : false },
    },
    square: {
      title: `Cosine of mean differences, layer ${layer}`, caption: "1: parallel; 0: at right angles.", height: 500, traces: square(data, now, width),
      layout: { xaxis: { tickangle: -40, showgrid: false, fixedrange: true }, yaxis: { autorange: "reversed", showgrid: false, fixedrange: true }, coloraxis: { cmin: -1, cmid: 0, cmax: 1, showscale: width >= NARROW } },
    },
    curves: {
      title: "Parallelism by layer", caption: few ? "Pick two tasks or more." : `The upright line is layer ${layer}; click to go to another. Shaded: ${Math.round(100 * data.confidence)} % intervals (up to ${NAMED_PAIRS} pairs).`,
      height: 340, traces: curves(data, now),
      layout: {
        xaxis: { title: { text: "layer" }, fixedrange: true }, yaxis: { title: { text: "cosine" }, range: [-1, 1], fixedrange: true }, legend: { ...legend, y: -0.2 },
        shapes: [{ type: "line", x0: layer, x1: layer, y0: 0, y1: 1, yref: "paper", line: { color: data.text[now.theme], width: 2, dash: "dot" } }],
      },
    },
    agreement: {
      title: `Single samples, layer ${layer}`, caption: "How far each sample's difference points along the mean of its task's other samples, and how long it is. Select samples here or above: both panels show the same ones.",
      height: 400, traces: agreement(data, now),
      layout: { ...still, xaxis: { title: { text: "cosine to the task's other samples" } }, yaxis: { title: { text: "length of the difference" }, rangemode: "tozero" }, dragmode: circles() ? "lasso" : false },
    },
  };
}

function controls(data, model) {
  const change = (name, value) => { model.set(name, value); model.save_changes(); };
  const pick = (name, choices) => {
    const field = element("select", { name }, ...Object.entries(choices).map(([value, text]) => new Option(text, value)));
    field.addEventListener("change", () => change(name, field.value));
    return field;
  };
  const boxes = data.tasks.map((task) => {
    const box = element("input", { type: "checkbox", value: task.name });
    const label = element("label", { className: "task" }, box, element("span", { className: "swatch" }), `${task.name} (${task.samples.length})`);
    label.querySelector(".swatch").style.background = task.colour;
    box.addEventListener("change", () => change("shown", boxes.filter((one) => one.box.checked).map((one) => one.box.value)));
    return { box, label };
  });
  const every = (text, names) => {
    const button = element("button", { type: "button", textContent: text });
    button.addEventListener("click", () => change("shown", names));
    return button;
  };
  const layer = element("input", { type: "range", min: 0, max: data.layers.length - 1, step: 1, name: "layer" });
  layer.addEventListener("input", () => change("layer", data.layers[layer.value]));
  // A notebook around a widget moves between cells by these keys.
  layer.addEventListener("keydown", (event) => event.stopPropagation());
  const shownLayer = element("output");
  const projection = pick("projection", Object.fromEntries(Object.keys(data.projections).map((name) => [name, name.toUpperCase()])));
  const colour = pick("colour", Object.fromEntries(Object.entries(COLOURS).filter(([name]) => name !== "answer" || data.tasks.some((task) => task.samples.some((one) => one.gold)))));
  const clear = element("button", { type: "button", textContent: "clear selection" });
  clear.addEventListener("click", () => change("selected", []));
  const row = element("div", { className: "controls" },
    element("fieldset", {}, element("legend", { textContent: "Tasks" }), ...boxes.map((one) => one.label), every("all", data.tasks.map((task) => task.name)), every("none", [])),
    element("label", { className: "layer" }, "Layer", layer, shownLayer), element("label", {}, "Projection", projection), element("label", {}, "Colour", colour), clear);
  const say = () => {
    const shown = new Set(model.get("shown"));
    for (const { box } of boxes) box.checked = shown.has(box.value);
    layer.value = Math.max(0, data.layers.indexOf(model.get("layer")));
    shownLayer.textContent = data.layers[layer.value];
    layer.setAttribute("aria-valuetext", `layer ${shownLayer.textContent}`);
    [projection.value, colour.value] = [model.get("projection"), model.get("colour")];
    clear.hidden = !model.get("selected").length;
  };
  return { row, say };
}

function listing(now, target) {
  const chosen = now.samples.filter((sample) => sample.selected);
  target.hidden = !chosen.length;
  const head = element("tr", {}, ...["Task", "Sample", "Answer", "Cosine"].map((text) => element("th", { scope: "col", textContent: text })));
  const rows = chosen.slice(0, LISTED).map((one) => element("tr", {}, ...[one.task.name, one.text || one.id, one.gold, one.task.cosine[now.layer][one.index].toFixed(2)].map((textContent) => element("td", { textContent }))));
  const rest = chosen.length - rows.length;
  target.replaceChildren(element("h3", { textContent: `${chosen.length} selected ${chosen.length === 1 ? "sample" : "samples"}` }), element("div", { className: "scroll", tabIndex: 0 }, element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows))), rest > 0 ? element("p", { textContent: `and ${rest} more` }) : "");
}

function panel(name) {
  const parts = { heading: element("h3"), plot: element("div", { className: "plot" }), caption: element("figcaption") };
  parts.plot.dataset.panel = name;
  parts.plot.setAttribute("role", "group");
  return { ...parts, figure: element("figure", {}, parts.heading, parts.plot, parts.caption) };
}

async function render({ model, el }) {
  const data = model.get("data");
  el.classList.add("cast-explore");
  const Plotly = await unpack(model.get("library"), data.plotly);
  const { row, say } = controls(data, model);
  const shown = { cloud: panel("cloud"), square: panel("square"), curves: panel("curves"), agreement: panel("agreement") };
  const table = element("section", { className: "selection", hidden: true });
  table.setAttribute("aria-live", "polite");
  el.append(element("h2", { textContent: data.title }), row, element("div", { className: "panels" }, ...Object.values(shown).map((one) => one.figure)), table);
  const media = window.matchMedia("(prefers-color-scheme: dark)");
  let pending = 0;

  async function draw() {
    pending = 0;
    if (!el.clientWidth) return;
    const theme = isDark(media) ? "dark" : "light";
    el.dataset.theme = theme;
    el.dataset.columns = el.clientWidth >= TWO_COLUMNS ? 2 : 1;
    say();
    const now = { ...scene(data, model), theme };
    const width = shown.cloud.plot.clientWidth;
    for (const [name, one] of Object.entries(panels(data, now, width))) {
      const { heading, plot, caption } = shown[name];
      [heading.textContent, caption.textContent] = [one.title, one.caption];
      plot.setAttribute("aria-label", `${one.title}. ${one.caption}`);
      const layout = { ...one.layout, template: data.templates[theme], width, height: one.height + legendHeight(one.traces, width), margin: { l: 56, r: 12, t: 8, b: 48 }, font: { size: width < NARROW ? 12 : 13 }, hovermode: "closest", uirevision: `${name}-${now.drawn}` };
      const config = { displaylogo: false, displayModeBar: ["cloud", "agreement"].includes(name) && circles(), modeBarButtons: [["lasso2d", "select2d", "zoom2d", "pan2d", "resetScale2d"]] };
      await Plotly.react(plot, one.traces, layout, config);
    }
    listing(now, table);
    el.dataset.drawn = data.layers[now.layer];
    el.dataset.ready = "yes";
  }

  const soon = () => { pending ||= setTimeout(draw, 0); };
  const select = (points) => {
    const chosen = new Map(points.filter((point) => point.customdata).map((point) => [point.customdata.join("\n"), point.customdata]));
    model.set("selected", [...chosen.values()]);
    model.save_changes();
  };
  await draw();
  for (const name of ["cloud", "agreement"]) {
    shown[name].plot.on("plotly_selected", (event) => event && select(event.points));
    shown[name].plot.on("plotly_deselect", () => select([]));
  }
  shown.curves.plot.on("plotly_click", ({ points }) => { model.set("layer", points[0].x); model.save_changes(); });
  for (const name of ["shown", "layer", "projection", "colour", "selected"]) model.on(`change:${name}`, soon);
  media.addEventListener("change", soon);
  const sizes = new ResizeObserver(soon);
  sizes.observe(el);
  return () => {
    sizes.disconnect();
    media.removeEventListener("change", soon);
    for (const name of ["shown", "layer", "projection", "colour", "selected"]) model.off(`change:${name}`, soon);
    for (const one of Object.values(shown)) Plotly.purge(one.plot);
  };
}
