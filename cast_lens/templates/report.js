"use strict";
(() => {
  const store = JSON.parse(document.getElementById("figure-data").textContent);
  const boxes = [...document.querySelectorAll("[data-figure]")];
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const NARROW = 560;
  const PAPER = 680;
  let printing = false;

  // A table that is wider than the page says so: on a phone its last columns would not be missed.
  const tables = new ResizeObserver((entries) => {
    for (const { target } of entries) target.classList.toggle("wider", target.scrollWidth > target.clientWidth + 1);
  });
  for (const one of document.querySelectorAll(".scroll")) tables.observe(one);

  const theme = () => store.templates[dark.matches && !printing ? "dark" : "light"];
  const steps = (path) => path.replace(/\[(\d+)\]/g, ".$1").split(".");
  const at = (whole, path) => steps(path).reduce((part, key) => part?.[key], whole);

  function put(whole, path, value) {
    const keys = steps(path);
    const last = keys.pop();
    keys.reduce((part, key) => (part[key] ??= {}), whole)[last] = value;
  }

  // plotly.js travels compressed; every browser since 2023 unpacks it.
  async function loadLibrary() {
    const packed = document.getElementById("plotly-library").textContent.trim();
    const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  }

  function shape(figure, width) {
    const narrow = width < NARROW;
    const overrides = figure.layout.meta?.narrow ?? {};
    const found = { template: theme(), width, height: figure.height };
    for (const [path, value] of Object.entries(overrides)) {
      found[path] = narrow ? value : (at(figure.wide, path) ?? null);
    }
    if (narrow && !overrides.height) found.height = figure.height + 16 * figure.entries;
    found["font.size"] = narrow ? 12 : 14;
    return found;
  }

  async function draw(box) {
    const figure = store.figures[box.dataset.figure];
    const { sliders = [], updatemenus = [], ...layout } = figure.layout;
    const controls = [...sliders.map((one) => [one, one.steps]), ...updatemenus.map((one) => [one, one.buttons])];
    layout.margin = { l: 50, r: 10, b: 40, t: layout.annotations?.length ? 34 : 12 };
    figure.height = layout.height - (controls.length ? 60 : 40);
    if (sliders.length) figure.height -= 80;
    figure.entries = figure.data.filter((trace) => trace.name && trace.showlegend !== false && trace.type !== "heatmap").length;
    figure.wide = structuredClone({ ...layout, height: figure.height });
    const config = { displaylogo: false, displayModeBar: false };
    for (const [path, value] of Object.entries(shape(figure, box.clientWidth))) put(layout, path, value);
    await Plotly.newPlot(box, figure.data, layout, config);
    box.style.minHeight = "";
    for (const [control, choices] of controls) box.before(makeControl(box, control, choices));
  }

  function makeControl(box, { name, active = 0 }, choices) {
    const row = document.createElement("div");
    const label = document.createElement("label");
    const id = `${box.dataset.figure}-${name}`;
    const isLayer = name === "Layer";
    const field = document.createElement(isLayer ? "input" : "select");
    row.className = "control";
    Object.assign(label, { htmlFor: id, textContent: name });
    field.id = id;
    row.append(label, field);
    const choose = (place) => Plotly.update(box, ...structuredClone(choices[place].args));
    if (!isLayer) {
      field.append(...choices.map((one, place) => new Option(one.label, place, place === active, place === active)));
      field.addEventListener("change", () => choose(field.value));
      return row;
    }
    const shown = document.createElement("output");
    const say = () => {
      shown.textContent = choices[field.value].label;
      field.setAttribute("aria-valuetext", `layer ${shown.textContent}`);
    };
    Object.assign(field, { type: "range", min: 0, max: choices.length - 1, step: 1, value: active });
    // Sliders of one page move together, so that figures show the same layer.
    field.layers = choices.map((one) => Number(one.label));
    field.follow = (layer) => {
      const place = field.layers.indexOf(layer);
      if (place < 0 || place === Number(field.value)) return;
      field.value = place;
      say();
      choose(place);
    };
    field.addEventListener("input", () => {
      say();
      choose(field.value);
      for (const other of document.querySelectorAll(".control input")) {
        if (other !== field) other.follow(field.layers[field.value]);
      }
    });
    say();
    row.append(shown);
    return row;
  }

  function redraw(width) {
    for (const box of boxes) {
      if (box.data) Plotly.relayout(box, shape(store.figures[box.dataset.figure], width ?? box.clientWidth));
    }
  }

  async function start() {
    try {
      await loadLibrary();
    } catch (error) {
      for (const box of boxes) box.textContent = "This browser is too old to draw the figure. Its numbers are in the CSV file named below.";
      console.warn(error);
      return;
    }
    for (const box of boxes) {
      await draw(box);
      await new Promise((resume) => setTimeout(resume));
    }
    let pending;
    window.addEventListener("resize", () => {
      clearTimeout(pending);
      pending = setTimeout(redraw, 120);
    });
    dark.addEventListener("change", () => redraw());
    window.addEventListener("beforeprint", () => {
      printing = true;
      for (const part of document.querySelectorAll("details")) part.open = true;
      redraw(PAPER);
    });
    window.addEventListener("afterprint", () => {
      printing = false;
      redraw();
    });
    document.documentElement.dataset.ready = "yes";
  }

  start();
})();
