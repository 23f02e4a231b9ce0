// Counts of the detections, and the tables.

const data = JSON.parse(document.getElementById("data").textContent);
const { classes, thresholds, runs } = data;
const SIZES = Object.keys(data.objects);
const KINDS = Object.keys(data.kinds);
const ERRORS = KINDS.filter((kind) => kind !== "missed");
const RUN_CLASSES = ["run-a", "run-b"];
const LETTERS = ["A", "B"];
const state = { index: thresholds.indexOf(data.score), label: 0 };
const sum = (values) => values.reduce((total, value) => total + value, 0);
const byId = (id) => document.getElementById(id);

// [run][kind][class][index]: the number of scores of at least thresholds[index].
const reached = runs.map((run) => Object.fromEntries(Object.entries(run.counts).map(([kind, ofClasses]) => [
  kind,
  ofClasses.map((pairs) => {
    const counts = new Int32Array(thresholds.length);
    for (const [index, count] of pairs) counts[index] = count;
    for (let index = counts.length - 2; index >= 0; index--) counts[index] += counts[index + 1];
    return counts;
  }),
])));

// Count the detections of a kind; label 0 is all classes.
function count(run, kind, label, index = state.index) {
  const counts = reached[run][kind];
  return label ? counts[label - 1][index] : sum(counts.map((ofClass) => ofClass[index]));
}
const objectCount = (size, label) => (label ? data.objects[size][label - 1] : sum(data.objects[size]));

// Compute the numbers of DetectionAnalysis at a score; null where undefined.
function ratios(run, label, index = state.index) {
  const right = sum(SIZES.map((size) => count(run, size, label, index)));
  const wrong = sum(ERRORS.map((kind) => count(run, kind, label, index)));
  const missed = sum(SIZES.map((size) => objectCount(size, label))) - right;
  const part = (above, below) => (below ? above / below : null);
  return {
    right, wrong, missed,
    precision: part(right, right + wrong),
    recall: part(right, right + missed),
    f1: part(2 * right, 2 * right + wrong + missed),
  };
}

// Make the heading of a column of one run, or of both.
const runHeading = (title, run) => (runs.length > 1 ? `${title} ${LETTERS[run]}` : title);
const heading = (title, run) =>
  html("th", run === undefined ? { scope: "col" } : { scope: "col", class: runs.length > 1 ? RUN_CLASSES[run] : "" }, title);
const perRun = (build) => runs.flatMap((_, run) => build(run));

function cards(list, entries) {
  list.replaceChildren(...entries.map(({ title, values, format = number }) => html("div", {}, html("dt", {}, title),
    ...(runs.length > 1
      ? [...values.map((value, run) => html("dd", { class: RUN_CLASSES[run] }, `${LETTERS[run]} ${format(value)}`)),
        html("dd", {}, values.includes(null) ? "" : signed(values[1] - values[0], format === number ? 3 : 0))]
      : [html("dd", {}, format(values[0]))]))));
}

function showScores() {
  const names = [...new Set(runs.flatMap((run) => Object.keys(run.scores)))];
  cards(byId("scores"), names.map((title) => ({ title, values: runs.map((run) => run.scores[title] ?? null) })));
}

function showRatios() {
  const found = runs.map((_, run) => ratios(run, state.label));
  const titles = { precision: "Precision", recall: "Recall", f1: "F1", right: "Right", wrong: "Wrong", missed: "Not found" };
  cards(byId("ratios"), Object.entries(titles).map(([key, title]) => ({
    title, values: found.map((row) => row[key]), format: ["right", "wrong", "missed"].includes(key) ? String : number,
  })));
}

// The table of classes. `value` gives the number of a class, again whenever the slider moves.
const sorting = { column: 0, descending: false };
const live = (title, key, digits) => perRun((run) => [{
  title: runHeading(title, run), run, value: (label) => ratios(run, label)[key],
  text: (value) => (digits ? number(value, digits) : String(value)),
}]);
const columns = [
  { title: "Class", value: (label) => classes[label - 1], text: String },
  { title: "Objects", value: (label) => sum(SIZES.map((size) => objectCount(size, label))), text: String },
  ...["AP", "AP50"].flatMap((key) => perRun((run) => [
    { title: runHeading(key, run), run, value: (label) => runs[run][key][label - 1], text: number },
  ])),
  ...(runs.length > 1 ? [{
    title: "AP B − A", text: signed,
    value: (label) => {
      const [a, b] = runs.map((run) => run.AP[label - 1]);
      return a === null || b === null ? null : b - a;
    },
  }] : []),
  ...live("Precision", "precision", 3), ...live("Recall", "recall", 3), ...live("F1", "f1", 3),
  ...live("Right", "right"), ...live("Wrong", "wrong"), ...live("Not found", "missed"),
];
const classRows = classes.map((name, index) => {
  const cells = columns.slice(1).map(({ run }) => html("td", runs.length > 1 && run !== undefined ? { class: RUN_CLASSES[run] } : {}));
  return { label: index + 1, cells, row: html("tr", {}, html("th", { scope: "row", title: name }, name), ...cells) };
});

function makeClassTable() {
  const heads = columns.map(({ title, run }, index) => {
    const button = html("button", { type: "button" }, title, html("span", { "aria-hidden": "true" }));
    button.addEventListener("click", () => {
      sorting.descending = sorting.column === index ? !sorting.descending : index > 0;
      sorting.column = index;
      sortClasses();
    });
    return html("th", { scope: "col", class: runs.length > 1 && run !== undefined ? RUN_CLASSES[run] : "" }, button);
  });
  byId("class-table").append(html("thead", {}, html("tr", {}, ...heads)), html("tbody"));
  showClasses();
  sortClasses();
}

function showClasses() {
  for (const { label, cells } of classRows) {
    cells.forEach((cell, index) => { cell.textContent = columns[index + 1].text(columns[index + 1].value(label)); });
  }
}

function sortClasses() {
  const { value } = columns[sorting.column];
  const sign = sorting.descending ? -1 : 1;
  const keyed = classRows.map((row) => ({ row, key: value(row.label) }));
  keyed.sort((a, b) => {
    if (a.key === null || b.key === null) return (a.key === null) - (b.key === null); // undefined ones last
    return sign * (typeof a.key === "string" ? a.key.localeCompare(b.key) : a.key - b.key);
  });
  byId("class-table").tBodies[0].replaceChildren(...keyed.map(({ row }) => row.row));
  byId("class-table").querySelectorAll("thead th").forEach((head, index) => {
    const sorted = index === sorting.column;
    head.setAttribute("aria-sort", sorted ? (sorting.descending ? "descending" : "ascending") : "none");
    head.querySelector("span").textContent = sorted ? (sorting.descending ? "▼" : "▲") : "";
  });
}

function showErrors() {
  const { label } = state;
  const all = sum(SIZES.map((size) => objectCount(size, label)));
  const counts = runs.map((_, run) => KINDS.map((kind) =>
    (kind === "missed" ? all - count(run, "noticed", label) : count(run, kind, label))));
  const most = Math.max(1, ...counts.flat());
  const rows = KINDS.map((kind, index) => html("tr", {}, html("th", { scope: "row" }, kind), ...perRun((run) => {
      const bar = html("span", { class: `bar ${RUN_CLASSES[run]}`, "aria-hidden": "true" });
      bar.style.width = `${(5 * counts[run][index]) / most}rem`;
      return [html("td", {}, bar, String(counts[run][index])), html("td", {}, signed(runs[run].gains[kind]))];
    }), html("td", {}, data.kinds[kind])));
  const head = html("tr", {}, heading("Kind"),
    ...perRun((run) => [heading(runHeading("Count", run), run), heading(runHeading("AP50 gained", run), run)]), heading("Meaning"));
  byId("error-table").replaceChildren(html("thead", {}, head), html("tbody", {}, ...rows));
}

function showSizes() {
  const rows = SIZES.map((size) => {
    const objects = objectCount(size, state.label);
    return html("tr", {}, html("th", { scope: "row" }, size), html("td", {}, String(objects)), ...perRun((run) => {
      const found = count(run, size, state.label);
      const { scores } = runs[run];
      return [String(found), number(objects ? found / objects : null), number(scores[`AP${size[0]}`]), number(scores[`AR${size[0]}`])]
        .map((text) => html("td", {}, text));
    }));
  });
  const head = html("tr", {}, heading("Size"), heading("Objects"),
    ...perRun((run) => ["Found", "Recall", "AP", "AR"].map((title) => heading(runHeading(title, run), run))));
  byId("size-table").replaceChildren(html("thead", {}, head), html("tbody", {}, ...rows));
}

function showConfusions() {
  const matrices = runs.map(({ confusion: { names, counts } }, run) => {
    const rows = counts.map((row, i) => {
      const total = sum(row) || 1;
      return html("tr", {}, html("th", { scope: "row", title: names[i] }, names[i]), ...row.map((value, j) => {
        const empty = i === 0 && j === 0;
        const cell = html("td", { class: i === j ? "own" : "other" }, empty ? "" : String(value));
        cell.style.setProperty("--share", `${Math.round((45 * value) / total)}%`);
        return cell;
      }));
    });
    const head = html("tr", {}, html("th", { scope: "col" }, "true ↓ detected →"),
      ...names.map((name) => html("th", { scope: "col", title: name }, name)));
    const title = runs.length > 1 ? `Confusions of ${LETTERS[run]}` : "Confusions";
    return html("div", { class: "scroll matrix", tabindex: "0", role: "region", "aria-label": title },
      html("table", {}, html("caption", { class: RUN_CLASSES[run] }, runs.length > 1 ? `${LETTERS[run]}: ${runs[run].name}` : ""),
        html("thead", {}, head), html("tbody", {}, ...rows)));
  });
  byId("matrices").replaceChildren(...matrices);
  const shown = runs[0].confusion.names.length - 1;
  byId("confusion-note").textContent =
    `Detections that score at least ${data.score.toFixed(2)}; the slider has no effect here. The color is the fraction of the row. `
    + "The row “background” counts detections without an object, the column “background” counts missed objects."
    + (shown < classes.length ? ` Shown are the ${shown} classes with the most errors, of ${classes.length}.` : "");
}
