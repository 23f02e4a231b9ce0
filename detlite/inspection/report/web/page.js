// The charts, the gallery and the controls of the page.

const wide = (node) => Math.max(260, node.clientWidth);

function figure(title, drawing, className = "") {
  return html("figure", {}, ...(title ? [html("figcaption", { class: className }, title)] : []), drawing);
}
const runTitle = (run) => (runs.length > 1 ? `${LETTERS[run]}: ${runs[run].name}` : "");
const className = () => (state.label ? classes[state.label - 1] : "all classes");

// Draw charts in columns of a grid, each as wide as its column.
function showCharts(node, list) {
  node.replaceChildren(...list.map(({ title, titleClass }) => figure(title, svg("svg"), titleClass)));
  const widths = [...node.children].map(wide); // measured before the first is drawn, so that the browser lays out the page once
  [...node.children].forEach((child, index) => child.lastChild.replaceWith(list[index].draw(widths[index])));
}

function showHistogram() {
  const bins = Array.from({ length: 50 }, (_, n) => n);
  const last = thresholds.length - 1;
  const inBin = (run, kinds, n) => sum(kinds.map((kind) =>
    count(run, kind, state.label, 2 * n) - (2 * n + 2 < last ? count(run, kind, state.label, 2 * n + 2) : 0)));
  showCharts(byId("histogram"), runs.map((_, run) => ({
    title: runTitle(run),
    titleClass: RUN_CLASSES[run],
    draw: (width) => scoreHistogram({
      width, threshold: thresholds[state.index], label: `Right and wrong detections by score, ${className()}`,
      right: bins.map((n) => inBin(run, SIZES, n)), wrong: bins.map((n) => inBin(run, ERRORS, n)),
    }),
  })));
}

function meanCurve(curves) {
  const defined = curves.filter((curve) => curve !== null);
  return defined.length ? defined[0].map((_, n) => sum(defined.map((curve) => curve[n])) / defined.length) : null;
}
const meanCurves = runs.map((run) => meanCurve(run.curves));

function showCurves() {
  const points = (curve) => curve.map((precision, n) => [n / (curve.length - 1), precision]);
  const background = classes.length <= 40 ? runs[0].curves.filter((curve) => curve !== null) : [];
  const lines = background.map((curve) => ({ points: points(curve) }));
  const dots = [];
  runs.forEach((run, index) => {
    const curve = state.label ? run.curves[state.label - 1] : meanCurves[index];
    if (curve) lines.push({ points: points(curve), className: RUN_CLASSES[index] });
    if (state.label) dots.push({ label: state.label, run: index, className: RUN_CLASSES[index] });
  });
  if (!state.label && background.length) classes.forEach((_, n) => dots.push({ label: n + 1, run: 0, className: "" }));
  const placed = dots.map(({ label, run, className }) => ({ className, ...ratios(run, label) }))
    .filter(({ precision, recall }) => precision !== null && recall !== null)
    .map(({ className, precision, recall }) => ({ className, point: [recall, precision] }));
  showCharts(byId("pr-chart"), [{
    draw: (width) => lineChart({
      width, height: Math.min(360, width), lines, dots: placed, x: [0, 1], y: [0, 1],
      label: `Precision over recall, ${className()}`,
    }),
  }]);
  byId("pr-note").textContent =
    `Precision (up) over recall (right) at IoU ${data.iou}: the thick line is ${state.label ? className() : "the mean of all classes"}`
    + (runs.length > 1 ? ", solid for A and dashed for B" : "")
    + (background.length ? "; thin lines are the classes" + (runs.length > 1 ? " of A" : "") : "")
    + (placed.length ? `. Dots are at the chosen score, ${thresholds[state.index].toFixed(2)}.` : ".");
}

function showTraining() {
  const names = [...new Set(runs.flatMap((run) => Object.keys(run.metrics)))];
  byId("training").hidden = !names.length;
  showCharts(byId("metrics"), names.map((name) => ({
    title: name,
    draw: (width) => lineChart({
      width, height: 170, label: `${name} by training step`,
      lines: runs.flatMap((run, index) =>
        (run.metrics[name] ? [{ points: run.metrics[name], className: RUN_CLASSES[index] }] : [])),
    }),
  })));
}

function cutOut({ picture, size, boxes }, label, keys) {
  const shape = picture && svg("svg", { viewBox: `0 0 ${size[0]} ${size[1]}`, role: "img", "aria-label": label },
    svg("image", { href: picture, width: size[0], height: size[1] }),
    ...keys.flatMap((key) => boxes[key].flatMap(([x1, y1, x2, y2]) => {
      const position = { x: x1, y: y1, width: x2 - x1, height: y2 - y1 };
      return [svg("rect", { class: "shade", ...position }), svg("rect", { class: key, ...position })];
    })));
  return html("div", { class: "frame" }, shape || "no picture");
}

function mistake({ kind, found, true: truth, score, iou, file, ...cut }) {
  const name = (label) => classes[label - 1];
  const title = found === null ? name(truth) : `${name(found)} ${number(score, 2)}`;
  const about = iou !== null ? `, IoU ${number(iou, 2)} with ${name(truth)}` : "";
  return html("li", {}, html("figure", {}, cutOut(cut, `${kind}: ${title}${about}`, ["true", "found"]),
    html("figcaption", {}, html("strong", { title }, title), `${kind}${about}`, html("small", { title: file }, file))));
}

function region(run, { objects, mistakes, file, ...cut }) {
  const title = `${objects} objects, ${mistakes} mistakes`;
  return html("li", {}, html("figure", {}, cutOut(cut, title, ["right", "true", "found"]),
    html("figcaption", {}, html("strong", {}, title), runTitle(run), html("small", { title: file }, file))));
}

function showRegions() {
  const items = runs.flatMap((run, index) => run.regions.map((row) => region(index, row)));
  byId("crowds").hidden = !items.length;
  byId("regions").replaceChildren(...items);
}

function showMistakes() {
  const kind = byId("kind").value;
  const all = runs[Number(byId("run").value)].mistakes;
  const chosen = all.filter((row) => (!kind || row.kind === kind)
    && (!state.label || row.found === state.label || row.true === state.label));
  byId("gallery").replaceChildren(...chosen.map(mistake));
  byId("shown").textContent = `${chosen.length} of ${all.length} shown`;
}

function showThreshold() {
  const text = thresholds[state.index].toFixed(2);
  byId("threshold").value = state.index;
  byId("threshold").setAttribute("aria-valuetext", text);
  byId("threshold-value").textContent = text;
  document.querySelectorAll(".threshold").forEach((node) => { node.textContent = text; });
}

// Redraw all that depends on the score or on the class.
function showAtScore() {
  showThreshold();
  [showRatios, showHistogram, showClasses, showCurves, showErrors, showSizes].forEach((show) => show());
}

function setClass(label) {
  state.label = label;
  for (const id of ["class", "mistake-class"]) byId(id).value = label;
  showAtScore();
  showMistakes();
}

function setThreshold(index) {
  state.index = index;
  showAtScore();
}

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}
const showTheme = () => byId("theme").setAttribute("aria-pressed", isDark());

function start() {
  byId("about").textContent = runs.map((run, index) =>
    `${runTitle(index) || run.name}: ${run.detections.toLocaleString("en")} detections`).join("; ")
    + ` on ${data.images.toLocaleString("en")} images, ${sum(SIZES.map((size) => objectCount(size, 0))).toLocaleString("en")} objects.`;
  document.title = `${runs.map((run) => run.name).join(" and ")} – detlite report`;
  document.querySelectorAll(".iou").forEach((node) => { node.textContent = data.iou; });
  byId("threshold").max = thresholds.length - 1;
  const options = () => classes.map((name, index) => html("option", { value: index + 1 }, name));
  byId("class").append(...options());
  byId("mistake-class").append(html("option", { value: 0 }, "all classes"), ...options());
  byId("kind").append(...Object.keys(data.kinds).map((kind) => html("option", { value: kind }, kind)));
  byId("run").append(...runs.map((run, index) => html("option", { value: index }, runTitle(index) || run.name)));
  byId("mistake-runs").hidden = runs.length < 2;

  byId("threshold").addEventListener("input", (event) => setThreshold(Number(event.target.value)));
  byId("threshold").addEventListener("change", sortClasses);
  byId("best").addEventListener("click", () => {
    const f1 = thresholds.map((_, index) => ratios(0, state.label, index).f1 ?? 0);
    setThreshold(f1.indexOf(Math.max(...f1)));
    sortClasses();
  });
  for (const id of ["class", "mistake-class"]) {
    byId(id).addEventListener("change", (event) => setClass(Number(event.target.value)));
  }
  for (const id of ["kind", "run"]) byId(id).addEventListener("change", showMistakes);
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  byId("theme").addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    showTheme();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showTheme);

  showTheme();
  showScores();
  makeClassTable();
  showConfusions();
  showTraining();
  showRegions();
  setClass(0);
  byId("sections").append(...[...document.querySelectorAll("main section:not([hidden])")].map((section) =>
    html("li", {}, html("a", { href: `#${section.id}` }, section.querySelector("h2").textContent))));
  let width = innerWidth;
  addEventListener("resize", () => { // hiding a phone's bars changes only the height
    if (innerWidth === width) return;
    width = innerWidth;
    [showHistogram, showCurves, showTraining].forEach((show) => show());
  });
}

start();
