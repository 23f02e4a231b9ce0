"use strict";
// Elements and charts. Texts are always inserted as text, never as HTML, because names of classes and files may be
// anybody's.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}
const html = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

const number = (value, digits = 3) => (value === null || value === undefined ? "n/a" : value.toFixed(digits));
const signed = (value, digits = 3) => {
  if (value === null) return "n/a";
  const size = Math.abs(value).toFixed(digits);
  return (Number(size) === 0 ? "" : value < 0 ? "−" : "+") + size;
};
const short = (value) => String(Number(value.toPrecision(3)));

// Return round numbers that divide a range into about `count` parts.
function ticks(low, high, count) {
  const raw = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= raw * 0.999);
  const found = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n++) found.push(n * step);
  return found;
}

// Draw a chart's grid and the numbers at its axes; `inside` receives the scales and returns the content.
function frame({ width, height, label, x, y, xTicks, yTicks, inside }) {
  const left = 48, right = 12, top = 8, bottom = 24;
  const scaleX = (value) => left + ((value - x[0]) / (x[1] - x[0] || 1)) * (width - left - right);
  const scaleY = (value) => height - bottom - ((value - y[0]) / (y[1] - y[0] || 1)) * (height - top - bottom);
  const drawing = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  for (const { value, text } of yTicks) {
    drawing.append(
      svg("line", { class: "grid", x1: left, x2: width - right, y1: scaleY(value), y2: scaleY(value) }),
      svg("text", { x: left - 6, y: scaleY(value) + 4, "text-anchor": "end" }, text),
    );
  }
  for (const value of xTicks) {
    drawing.append(svg("text", { x: scaleX(value), y: height - 6, "text-anchor": "middle" }, short(value)));
  }
  drawing.append(...inside(scaleX, scaleY));
  return drawing;
}

// Draw lines, [{className, points: [[x, y], ...]}], and dots, [{className, point}]; without a class name they are faint.
function lineChart({ width, height = 220, label, lines, dots = [], x, y }) {
  const points = lines.flatMap((line) => line.points);
  const range = (axis) => {
    const low = points.reduce((least, point) => Math.min(least, point[axis]), Infinity);
    const high = points.reduce((most, point) => Math.max(most, point[axis]), -Infinity);
    return low <= high ? [low, low === high ? low + (Math.abs(low) || 1) : high] : [0, 1];
  };
  const xRange = x || range(0);
  const around = y || range(1);
  const levels = ticks(...around, 5);
  const step = levels[1] - levels[0] || 1;
  const yRange = y || [Math.floor(around[0] / step + 1e-9) * step, Math.ceil(around[1] / step - 1e-9) * step];
  return frame({
    width, height, label, x: xRange, y: yRange,
    xTicks: ticks(...xRange, Math.max(2, width / 110)),
    yTicks: ticks(...yRange, Math.round((yRange[1] - yRange[0]) / step)).map((value) => ({ value, text: short(value) })),
    inside: (scaleX, scaleY) => [
      ...lines.map(({ points, className }) => svg("polyline", {
        class: `curve ${className || ""}`,
        points: points.map(([px, py]) => `${scaleX(px).toFixed(1)},${scaleY(py).toFixed(1)}`).join(" "),
      })),
      ...dots.map(({ point: [px, py], className }) =>
        svg("circle", { class: `dot ${className}`, r: className ? 6 : 4, cx: scaleX(px), cy: scaleY(py) })),
    ],
  });
}

// Draw counts of right and wrong detections by score, upward and downward from the middle, on a logarithmic scale.
function scoreHistogram({ width, height = 200, label, right, wrong, threshold }) {
  const logs = (counts) => counts.map((count) => Math.log10(1 + count));
  const [up, down] = [logs(right), logs(wrong)];
  const most = Math.max(1, ...up, ...down);
  const steps = [];
  for (let power = 0; Math.log10(1 + 10 ** power) <= most; power++) {
    const value = Math.log10(1 + 10 ** power);
    steps.push({ value, text: String(10 ** power) }, { value: -value, text: String(10 ** power) });
  }
  const apart = steps.filter(({ value }) => Math.abs(value) > 0.1 * most + 0.2); // a label near 0 would overlap its neighbor
  return frame({
    width, height, label, x: [0, 1], y: [-most, most], xTicks: ticks(0, 1, 5),
    yTicks: [{ value: 0, text: "0" }, ...apart],
    inside: (scaleX, scaleY) => {
      const wide = (scaleX(1) - scaleX(0)) / up.length;
      const bar = (className, value, n) => svg("rect", {
        class: className, x: scaleX(n / up.length), width: Math.max(1, wide - 1),
        y: Math.min(scaleY(value), scaleY(0)), height: Math.abs(scaleY(value) - scaleY(0)),
      });
      return [
        ...up.map((value, n) => bar("right", value, n)),
        ...down.map((value, n) => bar("wrong", -value, n)),
        svg("line", {
          class: "limit", x1: scaleX(threshold), x2: scaleX(threshold), y1: scaleY(most), y2: scaleY(-most),
        }),
      ];
    },
  });
}
