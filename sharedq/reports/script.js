"use strict";
// Draws the charts of a report over their pictures, sorts its tables and copies what people want to keep.
// Texts of runs go into the page as text only. The page works without this script: it then shows the pictures.
(() => {
  const page = JSON.parse(document.getElementById("charts").textContent);
  const off = new Set(); // places of the sources that are switched off
  const views = []; // every chart on the page
  let showsSeeds = false;

  // ---- Elements ----

  const holder = document.createElement("template");
  holder.innerHTML = "<svg></svg>";
  const SVG = holder.content.firstChild.namespaceURI;

  function fill(one, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) {
      if (value !== null && value !== undefined) one.setAttribute(name, value);
    }
    one.append(...children.filter((child) => child !== null));
    return one;
  }

  const svg = (name, attributes = {}, ...children) => fill(document.createElementNS(SVG, name), attributes, children);
  const html = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);

  function button(attributes, onclick, ...children) {
    const one = html("button", { type: "button", ...attributes }, ...children);
    one.addEventListener("click", onclick);
    return one;
  }

  // ---- Numbers ----

  function withDigits(value, digits) {
    const options = { minimumFractionDigits: digits, maximumFractionDigits: digits };
    return value.toLocaleString("en-US", options).replace("-", "−");
  }

  function number(value) {
    const size = Math.abs(value);
    if (size > 0 && size < 1) return String(Number(value.toPrecision(3))).replace("-", "−");
    return withDigits(value, size >= 100 ? 0 : size >= 10 ? 1 : 2);
  }

  function bytes(value) {
    for (const unit of ["B", "kB", "MB", "GB"]) {
      if (Number(value.toPrecision(3)) < 1000) return `${Number(value.toPrecision(3))} ${unit}`;
      value /= 1000;
    }
    return `${Number(value.toPrecision(3))} TB`;
  }

  function short(value) {
    for (const [size, letter] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
      if (Math.abs(value) >= size) return `${Number((value / size).toPrecision(6))}${letter}`.replace("-", "−");
    }
    return String(Number(value.toPrecision(6))).replace("-", "−");
  }

  const FORMS = {
    number,
    bytes,
    percent: (value) => `${withDigits(value, 0)} %`,
    signed: (value) => (value > 0 ? "+" : "") + number(value),
    count: (value) => withDigits(value, 0),
  };

  function withInterval(value, low, high, form) {
    const show = FORMS[form];
    if (!isNumber(value)) return "–";
    if (low === null || low === undefined) return show(value);
    const [bottom, top] = [low, high].map((bound) => show(bound).replace(" %", ""));
    return `${show(value)} [${bottom}, ${top}]`;
  }

  const isNumber = (value) => value !== null && value !== undefined;

  // ---- Scales and axes ----

  function extent(values) {
    const known = values.filter(isNumber);
    if (!known.length) return [0, 1];
    let [low, high] = [Infinity, -Infinity];
    for (const value of known) [low, high] = [Math.min(low, value), Math.max(high, value)];
    if (low === high) [low, high] = [low - (Math.abs(low) || 1) / 10, high + (Math.abs(high) || 1) / 10];
    return [low, high];
  }

  function widened([low, high], share) {
    return [low - share * (high - low), high + share * (high - low)];
  }

  function ticks([low, high], most) {
    const rough = (high - low) / Math.max(1, most);
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 2.5, 5, 10].find((one) => one * power >= rough * 0.999);
    const found = [];
    for (let at = Math.ceil(low / step - 1e-9); at * step <= high + 1e-9 * step; at++) found.push(at * step + 0); // never minus zero
    return found;
  }

  function logTicks([low, high]) {
    const found = [];
    for (let power = Math.ceil(Math.log10(low)); power <= Math.log10(high); power++) found.push(10 ** power);
    return found.length > 1 ? found : [low, high];
  }

  function scale([low, high], [from, to], isLog = false) {
    const place = isLog ? Math.log : (value) => value;
    const [bottom, top] = [place(low), place(high)];
    return (value) => from + ((place(value) - bottom) / (top - bottom)) * (to - from);
  }

  const round = (value) => Math.round(value * 10) / 10;
  const colour = (source) => `var(--c${page.sources[source].colour})`;

  function marker(source, x, y, size, attributes = {}) {
    const shape = {
      o: "M-1,0a1,1 0 1,0 2,0a1,1 0 1,0 -2,0",
      s: "M-.9,-.9h1.8v1.8h-1.8z",
      "^": "M0,-1.1L1.1,.9H-1.1z",
      D: "M0,-1.2L1.2,0L0,1.2L-1.2,0z",
      v: "M0,1.1L1.1,-.9H-1.1z",
      P: "M-.4,-1.1h.8v.7h.7v.8h-.7v.7h-.8v-.7h-.7v-.8h.7z",
    }[page.sources[source].marker];
    const where = `translate(${round(x)},${round(y)}) scale(${size})`;
    return svg("path", { d: shape, transform: where, fill: colour(source), ...attributes });
  }

  const text = (words, attributes) => svg("text", attributes, String(words));

  function cut(words, length) {
    const line = words.split(/\s+/).join(" ").trim();
    return line.length > length ? `${[...line].slice(0, length - 1).join("")}…` : line;
  }

  // ---- The three kinds of charts: each gives what was drawn, and the stops at which it tells numbers ----

  const DRAWN = { lines: drawLines, rows: drawRows, points: drawPoints };

  function frame(view, width, height, xs, ys, margins) {
    // Axes with their grid. `xs` and `ys` are {span, ticks, show, title, isLog}; without `ys` there is no vertical axis.
    const { left, right, top, bottom } = margins;
    const x = scale(xs.span, [left, width - right], xs.isLog);
    const y = ys && scale(ys.span, [height - bottom, top]);
    const group = svg("g", { class: "axes" });
    for (const at of xs.ticks) {
      const place = round(x(at));
      group.append(svg("line", { x1: place, x2: place, y1: top, y2: height - bottom }));
      const anchor = place > width - 18 ? "end" : "middle";
      group.append(text(xs.show(at), { x: place, y: height - bottom + 16, "text-anchor": anchor }));
    }
    for (const at of ys ? ys.ticks : []) {
      const place = round(y(at));
      group.append(svg("line", { x1: left, x2: width - right, y1: place, y2: place }));
      group.append(text(ys.show(at), { x: left - 6, y: place + 4, "text-anchor": "end" }));
    }
    if (!view.isSmall) {
      const middle = (left + width - right) / 2;
      group.append(text(xs.title, { class: "title", x: middle, y: height - 6, "text-anchor": "middle" }));
      if (ys) {
        const where = `translate(13,${(top + height - bottom) / 2}) rotate(-90)`;
        group.append(text(cut(ys.title, 40), { class: "title", transform: where, "text-anchor": "middle" }));
      }
    }
    return { x, y, group };
  }

  function axisText(form) {
    if (form === "percent") return (value) => `${withDigits(value, 0)} %`;
    return form === "bytes" ? bytes : short;
  }

  const widest = (words) => Math.max(0, ...words.map((one) => one.length)) * 6.6;

  function drawLines(view, width) {
    const { chart, isSmall } = view;
    const shown = chart.series.filter((one) => !off.has(one.label));
    const besides = !isSmall && width >= 560 && shown.length <= 8 && !chart.isSteps;
    const names = besides ? shown.map((one) => cut(page.sources[one.label].label, 22)) : [];
    const height = isSmall ? 150 : Math.round(Math.min(380, Math.max(230, width * 0.56)));
    const seeds = (one) => (showsSeeds && one.seeds) || [];
    const values = shown.flatMap((one) => [one.value, one.low || [], one.high || [], ...seeds(one)].flat());
    const span = widened(extent(chart.isSteps ? [0, ...values] : values), 0.04); // shares are seen from zero
    const marks = ticks(span, isSmall ? 3 : 5);
    const across = (shown.length ? shown : chart.series).flatMap((one) => one.x);
    const xSpan = extent(chart.hasLogX || chart.isSteps ? across : [0, ...across]);
    const xMarks = chart.hasLogX ? logTicks(xSpan) : ticks(xSpan, isSmall || width < 500 ? 3 : 6);
    const xs = { span: xSpan, ticks: xMarks, show: axisText(chart.xForm), title: chart.x, isLog: chart.hasLogX };
    const ys = { span, ticks: marks, show: short, title: chart.y };
    const left = widest(marks.map(short)) + (isSmall ? 12 : 32);
    const right = besides ? Math.min(170, widest(names) + 22) : 14;
    const margins = { left, right, top: 10, bottom: isSmall ? 24 : 46 };
    const { x, y, group } = frame(view, width, height, xs, ys, margins);
    if (chart.grey) {
      const end = x(chart.grey);
      group.prepend(svg("rect", { class: "grey", x: left, y: 10, width: round(end - left), height: height - margins.bottom - 10 }));
    }
    if (isNumber(chart.line) && chart.line >= xSpan[0] && chart.line <= xSpan[1]) {
      group.append(svg("line", { class: "level", x1: x(chart.line), x2: x(chart.line), y1: 10, y2: height - margins.bottom }));
    }
    const drawn = svg("g", {}, group);
    const ends = [];
    for (const one of shown) {
      const source = page.sources[one.label];
      const series = svg("g", { class: "series", "data-source": one.label });
      if (one.low) series.append(svg("path", { class: "band", d: band(one, x, y, chart.isSteps), fill: colour(one.label) }));
      for (const seed of seeds(one)) {
        series.append(svg("path", { class: "seed", d: path(one.x, seed, x, y, false), stroke: colour(one.label) }));
      }
      const dash = source.dash || null;
      const line = { class: "line", d: path(one.x, one.value, x, y, chart.isSteps), stroke: colour(one.label), "stroke-dasharray": dash };
      series.append(svg("path", line));
      const known = one.value.map((value, at) => (isNumber(value) ? at : -1)).filter((at) => at >= 0);
      const every = Math.max(1, Math.floor(one.x.length / 6));
      for (const at of isSmall || chart.isSteps ? [] : known.filter((place) => place % every === 0)) {
        series.append(marker(one.label, x(one.x[at]), y(one.value[at]), 3.6));
      }
      drawn.append(series);
      const last = known[known.length - 1];
      if (besides && last !== undefined) ends.push({ source: one.label, x: x(one.x[last]), y: y(one.value[last]) });
    }
    for (const { source, x: from, y: level, place } of apart(ends, 16, 14, height - margins.bottom)) {
      const edge = width - right;
      const series = svg("g", { class: "series beside", "data-source": source });
      series.append(svg("path", { d: `M${round(from + 3)},${round(level)}L${edge + 8},${round(place)}`, stroke: colour(source) }));
      series.append(text(cut(page.sources[source].label, 22), { x: edge + 12, y: round(place + 4) }));
      drawn.append(series);
    }
    const stops = [...new Set(shown.flatMap((one) => one.x))].sort((a, b) => a - b).map((step) => {
      const found = [];
      for (const one of shown) {
        const at = chart.isSteps ? one.x.findLastIndex((start) => start <= step) : one.x.indexOf(step);
        if (at >= 0 && isNumber(one.value[at])) found.push({ one, at, value: one.value[at] });
      }
      found.sort((a, b) => b.value - a.value);
      return {
        x: x(step),
        title: `${chart.xForm === "count" ? "at step " : `${chart.x}: `}${FORMS[chart.xForm](step)}`,
        marks: found.map(({ one, value }) => ({ source: one.label, x: x(step), y: y(value) })),
        lines: found.map(({ one, at, value }) => ({
          source: one.label,
          words: withInterval(value, one.low && one.low[at], one.high && one.high[at], chart.form),
          more: seeds(one).length ? seeds(one).map((seed, place) => seedWords(one.names[place], seed[at], chart.form)).join(", ") : "",
        })),
      };
    });
    return { drawn, height, stops: stops.filter((stop) => stop.lines.length), byX: true, from: 10, to: height - margins.bottom };
  }

  const seedWords = (name, value, form) => `seed ${name}: ${isNumber(value) ? FORMS[form](value) : "–"}`;

  function path(xs, values, x, y, isSteps) {
    let words = "";
    let before = null;
    values.forEach((value, at) => {
      if (!isNumber(value)) { before = null; return; }
      const [px, py] = [round(x(xs[at])), round(y(value))];
      words += before === null ? `M${px},${py}` : isSteps ? `H${px}V${py}` : `L${px},${py}`;
      before = py;
    });
    return words;
  }

  function band(one, x, y, isSteps) {
    const at = one.x.map((_, place) => place).filter((place) => isNumber(one.low[place]) && isNumber(one.high[place]));
    const edge = (side) => at.flatMap((place, order) => {
      const across = round(x(one.x[place]));
      const corner = `${across},${round(y(side[place]))}`;
      return isSteps && order ? [`${across},${round(y(side[at[order - 1]]))}`, corner] : [corner];
    });
    return at.length ? `M${[...edge(one.high), ...edge(one.low).reverse()].join(" ")}z` : "";
  }

  function apart(ends, gap, top, bottom) {
    // Places near to those wanted, of which none lies on another.
    const sorted = [...ends].sort((a, b) => a.y - b.y);
    let before = top - gap;
    for (const one of sorted) before = one.place = Math.max(one.y, before + gap);
    let after = bottom + gap;
    for (const one of sorted.reverse()) after = one.place = Math.min(one.place, after - gap);
    return sorted;
  }

  function drawRows(view, width) {
    const { chart } = view;
    const shown = chart.series.filter((one) => !off.has(one.label));
    const each = 44;
    const height = 14 + each * shown.length + 48;
    const hasBars = shown.some((one) => isNumber(one.bar));
    const values = shown.flatMap((one) => [one.value, one.low, one.high, one.bar, ...(one.dots || [])]);
    let span = extent(values.concat(isNumber(chart.line) ? [chart.line] : [], hasBars ? [0] : []));
    const [low, high] = widened(span, 0.05);
    span = hasBars ? [0, high] : [low, high];
    const percent = chart.form === "percent";
    const marks = ticks(span, width < 500 ? 4 : 6);
    const xs = { span, ticks: marks, show: percent ? (value) => withDigits(value, 0) : short, title: chart.x };
    const margins = { left: 12, right: 16, top: 8, bottom: 46 };
    const { x, group } = frame(view, width, height, xs, null, margins);
    if (isNumber(chart.line)) {
      group.append(svg("line", { class: "level", x1: x(chart.line), x2: x(chart.line), y1: 8, y2: height - 46 }));
    }
    const drawn = svg("g", {}, group);
    const stops = shown.map((one, place) => {
      const middle = 14 + each * place + 26;
      const series = svg("g", { class: "series", "data-source": one.label });
      const paint = colour(one.label);
      if (isNumber(one.bar)) {
        series.append(svg("rect", { class: "bar", x: 12, y: middle - 7, width: round(Math.max(0, x(one.bar) - 12)), height: 14, fill: paint }));
      }
      if (isNumber(one.low)) {
        series.append(svg("line", { class: "whisker", x1: round(x(one.low)), x2: round(x(one.high)), y1: middle, y2: middle, stroke: paint }));
      }
      for (const dot of (one.dots || []).filter(isNumber)) {
        series.append(svg("circle", { class: "dot-seed", cx: round(x(dot)), cy: middle + 9, r: 2.6, fill: paint }));
      }
      if (isNumber(one.value)) series.append(marker(one.label, x(one.value), middle, 5.5));
      const name = cut(page.sources[one.label].label, Math.max(12, Math.floor((width - 30) / 7)));
      series.append(text(name, { x: 14, y: middle - 14, class: "name" }));
      drawn.append(series);
      const first = isNumber(one.bar) ? one.bar : one.value;
      const lines = [];
      if (isNumber(one.bar)) lines.push({ source: one.label, words: `whole run ${FORMS[chart.form](first)}` });
      if (isNumber(one.value) || !lines.length) {
        const words = withInterval(one.value, one.low, one.high, chart.form);
        lines.push({ source: isNumber(one.bar) ? null : one.label, words: isNumber(one.bar) ? `median ${words}` : words });
      }
      if (one.dots) lines[0].more = one.dots.map((dot, at) => seedWords(one.names[at], dot, chart.form)).join(", ");
      return { x: x(isNumber(first) ? first : span[0]), y: middle, title: "", marks: [], lines, row: [middle - 24, middle + 16] };
    });
    return { drawn, height, stops };
  }

  function drawPoints(view, width) {
    const { chart } = view;
    const shown = chart.series.filter((one) => !off.has(one.label) && isNumber(one.value));
    const height = Math.round(Math.min(360, Math.max(230, width * 0.5)));
    const span = widened(extent(shown.flatMap((one) => [one.value, one.low, one.high])), 0.07);
    const marks = ticks(span, 5);
    const xSpan = [0, 1.1 * Math.max(1, ...shown.map((one) => one.x))];
    const xs = { span: xSpan, ticks: ticks(xSpan, width < 500 ? 3 : 5), show: bytes, title: chart.x };
    const ys = { span, ticks: marks, show: short, title: chart.y };
    const margins = { left: widest(marks.map(short)) + 32, right: 14, top: 10, bottom: 46 };
    const { x, y, group } = frame(view, width, height, xs, ys, margins);
    const drawn = svg("g", {}, group);
    const stops = [...shown].sort((a, b) => a.x - b.x || b.value - a.value).map((one) => {
      const series = svg("g", { class: "series", "data-source": one.label });
      const [px, py] = [x(one.x), y(one.value)];
      if (isNumber(one.low)) {
        series.append(svg("line", { class: "whisker", x1: px, x2: px, y1: round(y(one.low)), y2: round(y(one.high)), stroke: colour(one.label) }));
      }
      series.append(marker(one.label, px, py, 5.5));
      drawn.append(series);
      const words = withInterval(one.value, one.low, one.high, chart.form);
      return { x: px, y: py, title: "", marks: [], lines: [{ source: one.label, words: `${words} with ${bytes(one.x)}` }] };
    });
    return { drawn, height, stops };
  }

  // ---- A chart on the page ----

  function addChart(chart, place, name, isSmall = false) {
    const tip = html("div", { class: "tip", "aria-live": "polite" });
    const box = html("div", { class: isSmall ? "chart small" : "chart", tabindex: "0", role: "application" }, tip);
    box.setAttribute("aria-roledescription", "chart");
    box.setAttribute("aria-label", `${name} The arrow keys move through the values.`);
    const view = { chart, box, tip, isSmall, at: null, drawnWidth: 0 };
    place(box);
    box.addEventListener("pointermove", (event) => point(view, event));
    box.addEventListener("pointerdown", (event) => point(view, event));
    box.addEventListener("pointerleave", (event) => { if (event.pointerType !== "touch") stopAt(view, null); });
    box.addEventListener("blur", () => stopAt(view, null));
    box.addEventListener("keydown", (event) => step(view, event));
    views.push(view);
    redraw(view);
    new ResizeObserver(() => { if (box.clientWidth !== view.drawnWidth) redraw(view); }).observe(box);
  }

  function redraw(view) {
    const width = view.box.clientWidth;
    view.drawnWidth = width;
    if (!width) return; // it is drawn when the part of the page that it is in is unfolded
    view.result = DRAWN[view.chart.kind](view, width);
    const { drawn, height } = view.result;
    const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, width: "100%", "aria-hidden": "true" }, drawn);
    view.cursor = svg("g", { class: "cursor" });
    picture.append(view.cursor);
    if (view.picture) view.picture.replaceWith(picture);
    else view.box.prepend(picture);
    view.picture = picture;
    stopAt(view, null);
  }

  function point(view, event) {
    if (!view.result) return;
    const bounds = view.picture.getBoundingClientRect();
    const [px, py] = [event.clientX - bounds.left, event.clientY - bounds.top];
    const { stops, byX } = view.result;
    const far = (stop) => {
      if (byX) return Math.abs(stop.x - px);
      if (stop.row) return Math.abs((stop.row[0] + stop.row[1]) / 2 - py);
      return Math.hypot(stop.x - px, stop.y - py);
    };
    let best = null;
    stops.forEach((stop, at) => { if (best === null || far(stop) < far(stops[best])) best = at; });
    stopAt(view, best, py);
  }

  function step(view, event) {
    const count = view.result ? view.result.stops.length : 0;
    const moves = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -Infinity, End: Infinity };
    if (event.key === "Escape") stopAt(view, null);
    if (!count || !(event.key in moves) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const from = view.at === null ? (moves[event.key] > 0 ? -1 : count) : view.at;
    stopAt(view, Math.min(count - 1, Math.max(0, from + moves[event.key])));
  }

  function swatch(source) {
    const { dash } = page.sources[source];
    const line = { x1: 1, x2: 25, y1: 6, y2: 6, stroke: colour(source), "stroke-width": 2.5, "stroke-dasharray": dash || null };
    return svg("svg", { class: "swatch", viewBox: "0 0 26 12", "aria-hidden": "true" }, svg("line", line), marker(source, 13, 6, 3.8));
  }

  function stopAt(view, at, py = null) {
    view.at = at;
    view.cursor?.replaceChildren();
    view.tip.replaceChildren();
    view.tip.hidden = at === null;
    if (at === null) return;
    for (const other of views) if (other !== view && other.at !== null) stopAt(other, null);
    const { stops, byX, from, to, height } = view.result;
    const stop = stops[at];
    if (byX) view.cursor.append(svg("line", { x1: round(stop.x), x2: round(stop.x), y1: from, y2: to }));
    if (stop.row) {
      const wide = { x: 2, y: stop.row[0], width: view.drawnWidth - 4, height: stop.row[1] - stop.row[0], rx: 4 };
      view.cursor.append(svg("rect", wide));
    }
    for (const mark of stop.marks) view.cursor.append(marker(mark.source, mark.x, mark.y, 4.4, { class: "ring" }));
    let near = null;
    if (py !== null) {
      for (const mark of stop.marks) if (near === null || Math.abs(mark.y - py) < Math.abs(near.y - py)) near = mark;
    }
    if (stop.title) view.tip.append(html("div", { class: "when" }, stop.title));
    for (const { source, words, more } of stop.lines) {
      const line = html("div", { class: near && near.source === source ? "near" : "" });
      if (source !== null) line.append(swatch(source), html("span", {}, cut(page.sources[source].label, 36)), " ");
      line.append(html("b", {}, words));
      if (more && (!near || near.source === source)) line.append(html("small", {}, more));
      view.tip.append(line);
    }
    const { offsetWidth: wide, offsetHeight: high } = view.tip;
    const room = view.box.clientWidth;
    const right = stop.x + 14 + wide <= room;
    const leftmost = Math.max(0, room - wide);
    view.tip.style.left = `${Math.min(leftmost, Math.max(0, right ? stop.x + 14 : stop.x - 14 - wide))}px`;
    const isNarrow = byX && room < 560; // then it stands below the axis, so that it does not hide the lines
    const below = isNarrow ? to + 20 : stop.row ? stop.row[1] + 4 : stop.y !== undefined ? stop.y + 14 : 14;
    view.tip.style.top = `${!stop.row && !isNarrow && below + high > height + 40 ? Math.max(0, height - high) : below}px`;
  }

  // ---- The switches of the sources, and of single seeds: they act on all charts ----

  function addSwitches(bar) {
    const used = [...new Set(views.flatMap((view) => view.chart.series.map((one) => one.label)))].sort((a, b) => a - b);
    const all = button({ class: "plain", hidden: "" }, () => { off.clear(); update(); }, "Show all");
    const switches = used.length < 2 ? [] : used.map((source) => {
      const { label } = page.sources[source];
      const one = button({ class: "source", title: `${label} (double-click: only this one)` }, () => toggle(source), swatch(source), html("span", {}, label));
      one.addEventListener("dblclick", () => only(source));
      one.addEventListener("pointerenter", () => mark(source));
      one.addEventListener("pointerleave", () => mark(null));
      one.addEventListener("focus", () => { if (one.matches(":focus-visible")) mark(source); });
      one.addEventListener("blur", () => mark(null));
      return { source, one };
    });
    const seeds = button({ class: "plain" }, () => { showsSeeds = !showsSeeds; update(); }, "Single seeds");
    const hasSeeds = views.some((view) => view.chart.series.some((one) => one.seeds && one.seeds.length > 1));

    function update() {
      for (const { source, one } of switches) one.setAttribute("aria-pressed", String(!off.has(source)));
      seeds.setAttribute("aria-pressed", String(showsSeeds));
      all.hidden = !off.size;
      views.forEach(redraw);
    }

    function toggle(source) {
      if (!off.delete(source)) off.add(source);
      update();
    }

    function only(source) {
      const others = used.filter((one) => one !== source);
      const wasAlone = others.every((one) => off.has(one));
      off.clear();
      if (!wasAlone) others.forEach((one) => off.add(one));
      update();
    }

    function mark(source) {
      for (const series of document.querySelectorAll(".series")) {
        series.classList.toggle("dim", source !== null && !off.has(source) && Number(series.dataset.source) !== source);
      }
    }

    if (!switches.length && !hasSeeds) return;
    bar.append(...switches.map(({ one }) => one), ...(hasSeeds ? [seeds] : []), all);
    for (const { one } of switches) one.setAttribute("aria-pressed", "true");
    seeds.setAttribute("aria-pressed", "false");
    bar.hidden = false;
  }

  // ---- Tables ----

  const numbersOf = (cell) => (cell.dataset.n ? cell.dataset.n.split(",").map((one) => (one === "" ? NaN : Number(one))) : []);

  function wordsOf(cell) {
    const parts = [...cell.childNodes].map((child) => child.textContent.trim());
    return parts.filter((part) => part).join(" ").split(/\s+/).join(" ");
  }

  function makeSortable(table) {
    const body = table.tBodies[0];
    const original = [...body.rows];
    if (original.length < 2) return;
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const sorter = button({ class: "sort", title: "Sort by this column" }, () => {
        const values = original.map((row) => numbersOf(row.cells[column])[0]);
        const hasNumbers = values.some((value) => Number.isFinite(value));
        const first = hasNumbers ? "descending" : "ascending";
        const second = hasNumbers ? "ascending" : "descending";
        const now = head.getAttribute("aria-sort");
        const next = now === first ? second : now === second ? null : first;
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        if (next) head.setAttribute("aria-sort", next);
        body.append(...(next ? sorted(original, column, hasNumbers, next) : original));
      }, ...head.childNodes);
      head.append(sorter);
    });
  }

  function sorted(rows, column, hasNumbers, direction) {
    // What has no number stands below, whichever way the others are sorted.
    const sign = direction === "ascending" ? 1 : -1;
    const key = (row) => (hasNumbers ? numbersOf(row.cells[column])[0] : wordsOf(row.cells[column]));
    const missing = (value) => value === undefined || Number.isNaN(value);
    return [...rows].sort((one, other) => {
      const [a, b] = [key(one), key(other)];
      if (missing(a) || missing(b)) return missing(a) - missing(b);
      return sign * (hasNumbers ? a - b : a.localeCompare(b, "en", { numeric: true }));
    });
  }

  const rowsOf = (table) => [...table.tBodies[0].rows].map((row) => [...row.cells]);
  const headsOf = (table) => [...table.tHead.rows[0].cells].map((head) => wordsOf(head.querySelector("button") || head));

  function csvCell(words) {
    // A text that a spreadsheet would take for a formula gets an apostrophe before it.
    const isFormula = /^ *[=+\-@\t\r\n]/.test(words) && !Number.isFinite(Number(words));
    const safe = isFormula ? `'${words}` : words;
    return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  }

  function csv(table) {
    // Numbers are whole, and an interval has two columns of its own.
    const rows = rowsOf(table);
    const names = [...table.tHead.rows[0].cells].map((head, column) => {
      const name = headsOf(table)[column];
      if (head.dataset.parts) return head.dataset.parts.split("|");
      const hasIntervals = rows.some((cells) => numbersOf(cells[column]).length > 1);
      return hasIntervals ? [name, `${name}, low`, `${name}, high`] : [name];
    });
    const lines = rows.map((cells) => cells.flatMap((cell, column) => {
      const numbers = numbersOf(cell);
      const words = wordsOf(cell) === "–" ? "" : wordsOf(cell);
      const known = numbers.length ? numbers.map((one) => (Number.isFinite(one) ? String(one) : "")) : [words];
      return names[column].map((_, at) => known[at] ?? "");
    }));
    return [names.flat(), ...lines].map((line) => `${line.map(csvCell).join(",")}\n`).join("");
  }

  const TEX = {
    "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "\\textless{}", ">": "\\textgreater{}",
    "−": "$-$", "–": "--", "×": "$\\times$", "’": "'", "…": "\\dots{}",
  };

  function tex(words) {
    return words.replace(/[\\~^<>−–×’…&%$#_{}]/g, (sign) => TEX[sign] || `\\${sign}`);
  }

  function latex(table) {
    const heads = headsOf(table);
    const line = (cells) => `${cells.join(" & ")} \\\\`;
    const cell = (one) => {
      const small = [...one.querySelectorAll("small")].map((part) => `{\\scriptsize ${tex(part.textContent.trim())}}`);
      const value = [...one.childNodes].filter((child) => child.nodeName !== "SMALL").map((child) => child.textContent).join("").trim();
      return [tex(value.split(/\s+/).join(" ")), ...small].join(" ");
    };
    return [
      "% needs \\usepackage{booktabs}",
      `\\begin{tabular}{l${"r".repeat(heads.length - 1)}}`,
      "\\toprule", line(heads.map(tex)), "\\midrule",
      ...rowsOf(table).map((cells) => line(cells.map(cell))),
      "\\bottomrule", "\\end{tabular}", "",
    ].join("\n");
  }

  // ---- Copying ----

  async function copy(words) {
    try {
      await navigator.clipboard.writeText(words);
    } catch {
      const area = html("textarea", { class: "away", "aria-hidden": "true" });
      area.value = words;
      document.body.append(area);
      area.select();
      const done = document.execCommand("copy");
      area.remove();
      if (!done) throw new Error("the browser does not let the page copy");
    }
  }

  function copier(name, words) {
    const said = html("span", { "aria-live": "polite" }, name);
    const one = button({ class: "plain copy" }, async () => {
      try {
        await copy(words());
        said.textContent = "Copied";
      } catch {
        said.textContent = "Copying is not allowed";
      }
      one.focus({ preventScroll: true });
      setTimeout(() => { said.textContent = name; }, 1600);
    }, said);
    return one;
  }

  // ---- The page ----

  function unfold() {
    const goal = location.hash && document.getElementById(location.hash.slice(1));
    const folded = goal && goal.closest("details");
    if (folded && !folded.open) {
      folded.open = true;
      goal.scrollIntoView();
    }
  }

  for (const figure of document.querySelectorAll("figure[data-chart]")) {
    const caption = figure.querySelector("figcaption").textContent;
    figure.classList.add("live");
    try {
      addChart(page.charts[Number(figure.dataset.chart)], (box) => figure.prepend(box), caption);
    } catch (error) {
      figure.classList.remove("live"); // the picture stays
      figure.querySelector(".chart")?.remove();
      console.error(error);
    }
  }
  for (const figure of document.querySelectorAll("figure[data-panels]")) {
    const grid = html("div", { class: "panels" });
    figure.classList.add("live");
    figure.prepend(grid);
    for (const words of figure.dataset.panels.split(" ")) {
      const [task, chart] = words.split(":").map(Number);
      const title = document.getElementById(`task-${task}`).textContent;
      const panel = html("div", { class: "panel" }, html("a", { href: `#task-${task}` }, title));
      grid.append(panel);
      addChart(page.charts[chart], (box) => panel.append(box), `${title}.`, true);
    }
  }
  addSwitches(document.getElementById("sources"));

  for (const box of document.querySelectorAll(".scroll")) {
    const table = box.querySelector("table");
    makeSortable(table);
    const tools = html("div", { class: "tools" }, copier("Copy CSV", () => csv(table)), copier("Copy LaTeX", () => latex(table)));
    box.after(tools);
  }
  for (const block of document.querySelectorAll("pre")) {
    block.before(html("div", { class: "tools above" }, copier("Copy", () => block.textContent)));
  }

  document.addEventListener("pointerdown", (event) => {
    for (const view of views) if (view.at !== null && !view.box.contains(event.target)) stopAt(view, null);
  });
  window.addEventListener("hashchange", unfold);
  unfold();
  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details.task:not([open])")];
    for (const one of opened) one.open = true;
    for (const view of views) if (!view.drawnWidth) redraw(view);
  });
  window.addEventListener("afterprint", () => {
    for (const one of opened) one.open = false;
  });
})();
