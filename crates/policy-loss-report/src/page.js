"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const page = document.getElementById("page");

  // Elements.
  const make = (space) => (tag, attributes = {}, ...children) => {
    const element = space ? document.createElementNS(space, tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  };
  const html = make(null);
  const svg = make("http://www.w3.org/2000/svg");

  // Numbers.
  const number = (value, digits = 4) => {
    if (value === null || value === undefined) return "-";
    if (Number.isInteger(value) && Math.abs(value) < 1e9) return String(value);
    const size = Math.abs(value);
    if (size >= 1e-3 && size < 1e6) return String(Number(value.toPrecision(digits)));
    return value.toExponential(digits - 2);
  };
  const percent = (share) => {
    const value = 100 * share;
    if (value === 0) return "0 %";
    if (value < 0.1) return "below 0.1 %";
    return (value < 10 ? value.toFixed(1) : value.toFixed(0)) + " %";
  };
  const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;

  // Sentences of the library: `code` and [links](address).
  const prose = (text) => {
    const parts = [];
    const clean = text.trim().replace(/\[([^\]]*)\](\((?!http)[^)]*\))?(?!\()/g, "$1");
    const pattern = /`([^`]*)`|\[([^\]]*)\]\((https?:[^)]*)\)/g;
    let last = 0;
    for (const found of clean.matchAll(pattern)) {
      parts.push(clean.slice(last, found.index));
      parts.push(found[1] !== undefined
        ? html("code", {}, found[1])
        : html("a", { href: found[3], rel: "noreferrer" }, found[2]));
      last = found.index + found[0].length;
    }
    parts.push(clean.slice(last));
    return parts;
  };

  // Round numbers that divide an axis.
  const ticks = (low, high, about = 5) => {
    const raw = (high - low) / about;
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= raw);
    const found = [];
    for (let index = Math.ceil(low / step - 1e-9); index * step <= high + 1e-9 * step; index += 1) {
      found.push(index * step);
    }
    return found;
  };
  // Ratios that divide an axis of logarithms.
  const ratioTicks = (low, high) => {
    if (high - low < 1) {
      return ticks(Math.exp(low), Math.exp(high), 5)
        .filter((ratio) => ratio > 0)
        .map((ratio) => ({ at: Math.log(ratio), label: number(ratio, 6) }));
    }
    const found = [];
    const all = high - low < 8 ? [1, 2, 5] : [1];
    for (let power = Math.floor(low / Math.LN10); power <= Math.ceil(high / Math.LN10); power += 1) {
      for (const factor of all) {
        const at = Math.log(factor) + power * Math.LN10;
        if (at >= low && at <= high) found.push({ at, label: number(factor * 10 ** power, 3) });
      }
    }
    const every = Math.ceil(found.length / 9);
    return found.filter((tick) => every === 1 || Math.round(tick.at / Math.LN10) % every === 0);
  };
  const countTicks = (most) => {
    const found = [];
    const factors = most < 30 ? [1, 2, 5] : [1];
    for (let power = 1; power <= Math.max(most, 1); power *= 10) {
      found.push(...factors.map((factor) => factor * power).filter((count) => count <= Math.max(most, 1)));
    }
    return found;
  };

  // A picture with axes.
  const WIDTH = 520;
  const frame = ({ height = 230, x, y, xTicks, yTicks, xLabel, yLabel, label, width = WIDTH }) => {
    const margin = { left: 58, right: 14, top: 20, bottom: 38 };
    const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
    const place = (domain, from, to) => (value) =>
      from + ((value - domain[0]) / (domain[1] - domain[0] || 1)) * (to - from);
    const atX = place(x, margin.left, width - margin.right);
    const atY = place(y, height - margin.bottom, margin.top);
    for (const { at, label: text } of yTicks) {
      root.append(svg("line", { class: "rule", x1: margin.left, x2: width - margin.right, y1: atY(at), y2: atY(at) }));
      root.append(svg("text", { x: margin.left - 6, y: atY(at) + 4, "text-anchor": "end" }, text));
    }
    for (const { at, label: text } of xTicks) {
      root.append(svg("line", { class: "axis", x1: atX(at), x2: atX(at), y1: height - margin.bottom, y2: height - margin.bottom + 4 }));
      root.append(svg("text", { x: atX(at), y: height - margin.bottom + 17, "text-anchor": "middle" }, text));
    }
    root.append(svg("line", { class: "axis", x1: margin.left, x2: width - margin.right, y1: height - margin.bottom, y2: height - margin.bottom }));
    root.append(svg("text", { x: (margin.left + width - margin.right) / 2, y: height - 4, "text-anchor": "middle" }, xLabel));
    root.append(svg("text", { x: -(margin.top + height - margin.bottom) / 2, y: 12, transform: "rotate(-90)", "text-anchor": "middle" }, yLabel));
    const line = (value, text, order) => {
      if (value < x[0] || value > x[1]) return;
      root.append(svg("line", { class: "bound", x1: atX(value), x2: atX(value), y1: margin.top - 6, y2: height - margin.bottom }));
      const end = order % 2 === 0;
      root.append(svg("text", { class: "bound-label", x: atX(value) + (end ? -4 : 4), y: margin.top - 9, "text-anchor": end ? "end" : "start" }, text));
    };
    const level = (value, text) => {
      if (value < y[0] || value > y[1]) return;
      root.append(svg("line", { class: "bound", x1: margin.left, x2: width - margin.right, y1: atY(value), y2: atY(value) }));
      root.append(svg("text", { class: "bound-label", x: width - margin.right, y: atY(value) - 4, "text-anchor": "end" }, text));
    };
    return { root, atX, atY, line, level };
  };
  const figure = (title, picture, caption) =>
    html("figure", {}, html("h3", {}, title), picture, html("figcaption", {}, ...[caption].flat()));
  const legend = (entries) => html("div", { class: "legend" },
    ...entries.map(([name, text]) => html("span", { style: `--of: var(--${name})` }, text)));

  // Counts of logarithms; those of positive advantages above the axis, of negative ones below it.
  const histogram = (counts, { bounds, xLabel, what, label }) => {
    const height = (count) => (count > 0 ? Math.log10(count) + 0.3 : 0);
    const upper = counts.positive.map((count, bin) => count + counts.zero[bin]);
    const most = Math.max(1, ...upper, ...counts.negative);
    const down = Math.max(...counts.negative) > 0;
    const top = height(most) * 1.06;
    const yTicks = countTicks(most).flatMap((count) => {
      const tick = { at: height(count), label: count.toLocaleString("en") };
      return down ? [tick, { at: -tick.at, label: tick.label }] : [tick];
    });
    const plot = frame({
      x: [counts.low, counts.high], y: [down ? -top : 0, top],
      xTicks: ratioTicks(counts.low, counts.high), yTicks, xLabel, yLabel: `${what} (log scale)`, label,
    });
    const step = (counts.high - counts.low) / counts.positive.length;
    const bar = (bin, from, to, kind, count) => {
      const left = plot.atX(counts.low + bin * step);
      const right = plot.atX(counts.low + (bin + 1) * step);
      const [high, low] = [plot.atY(Math.max(from, to)), plot.atY(Math.min(from, to))];
      const range = `${number(Math.exp(counts.low + bin * step))} to ${number(Math.exp(counts.low + (bin + 1) * step))}`;
      plot.root.append(svg("rect", { class: kind, x: left + 0.4, y: high, width: Math.max(right - left - 0.8, 0.5), height: low - high },
        svg("title", {}, `${range}: ${count.toLocaleString("en")}`)));
    };
    upper.forEach((count, bin) => {
      const zero = counts.zero[bin];
      if (zero > 0) bar(bin, 0, height(count), "zero", zero);
      if (counts.positive[bin] > 0) bar(bin, 0, height(counts.positive[bin]), "positive", counts.positive[bin]);
      if (counts.negative[bin] > 0) bar(bin, 0, -height(counts.negative[bin]), "negative", counts.negative[bin]);
    });
    if (down) plot.root.append(svg("line", { class: "axis", x1: plot.atX(counts.low), x2: plot.atX(counts.high), y1: plot.atY(0), y2: plot.atY(0) }));
    bounds.filter((bound) => bound.value > 0).forEach((bound, order) => plot.line(Math.log(bound.value), `${bound.label} = ${number(bound.value, 6)}`, order));
    return plot.root;
  };

  const dots = ({ xs, ys, classes, titles, xLabel, yLabel, label }) => {
    const finite = ys.filter((y) => y !== null);
    const range = (values) => {
      const low = Math.min(...values), high = Math.max(...values);
      const room = (high - low || Math.abs(high) || 1) * 0.06;
      return [low - room, high + room];
    };
    const x = range(xs), y = finite.length ? range(finite) : [0, 1];
    const plain = (values) => values.map((at) => ({ at, label: number(at) }));
    const plot = frame({ x, y, xTicks: plain(ticks(...x)), yTicks: plain(ticks(...y)), xLabel, yLabel, label });
    ys.forEach((value, index) => {
      if (value === null) return;
      plot.root.append(svg("circle", { class: classes[index], cx: plot.atX(xs[index]), cy: plot.atY(value), r: 3.4, "fill-opacity": 0.75 },
        svg("title", {}, titles[index])));
    });
    return plot.root;
  };

  // The page, part by part.
  const sections = [];
  const section = (id, title, ...children) => {
    sections.push([id, title]);
    page.append(html("section", { id }, html("h2", {}, title), ...children));
  };
  document.title = data.title;
  const navigation = html("nav", { "aria-label": "Parts of this page" });
  page.append(html("h1", {}, data.title));
  if (data.facts.length) {
    page.append(html("dl", {}, ...data.facts.flatMap(([name, value]) => [html("dt", {}, name), html("dd", {}, value)])));
  }
  page.append(navigation);

  const groups = new Map();
  for (const { of, warning } of data.warnings) {
    const key = warning.message;
    if (!groups.has(key)) groups.set(key, { warning, of: [] });
    groups.get(key).of.push(of);
  }
  section("warnings", "Warnings", groups.size === 0
    ? html("p", {}, "None: nothing here is known to go wrong.")
    : html("ul", { class: "warnings" }, ...[...groups.values()].map(({ warning, of }) =>
      html("li", { "data-name": warning.name }, html("strong", {}, `${of.join(", ")}: `), warning.message, " ", html("small", {}, `(${warning.name})`)))));

  const batch = data.batch;
  if (batch) {
    const objectives = batch.objectives;

    section("ratios", "How far the policy has moved",
      html("p", {}, "Each bar counts probability ratios: 1 is a token as likely as before, 2 one twice as likely. What is to become more likely (advantage above 0) stands above the axis, what is to become less likely below. Beyond a dashed bound, a step that goes on in the same direction is clipped: above the axis to the right, below it to the left."),
      legend([["positive", "advantage above 0"], ["negative", "advantage below 0"], ["zero", "advantage 0"]]),
      html("div", { class: "grid" }, ...objectives.map((one) => {
        const what = one.ratio_of_sequences ? "sequences" : "tokens";
        const note = one.ratios.not_a_number ? ` ${plural(one.ratios.not_a_number, "ratio")} that are no numbers are left out.` : "";
        const bounds = one.ratio_bounds.length ? "" : " Nothing bounds the ratio.";
        return figure(one.name, histogram(one.ratios, { bounds: one.ratio_bounds, xLabel: `ratio of ${what} (log scale)`, what, label: `Ratios under ${one.name}` }),
          prose(`Ratios of ${what} to \`${one.ratio_against}\`.${bounds}${note} The first and the last bar hold what lies beyond.`));
      })));

    if (batch.gaps) {
      const bounded = objectives.filter((one) => one.weight_of_tokens && one.weight_bounds.length);
      const unique = new Map(bounded.map((one) => [JSON.stringify(one.weight_bounds), one]));
      const variants = unique.size ? [...unique.values()] : [null];
      section("gaps", "How far sampler and trainer are apart",
        html("p", {}, "The inference engine and the trainer give the same token slightly different probabilities. Each bar counts tokens by trainer's probability over sampler's: 1 is agreement, and a heavy tail is what a rollout correction is for."),
        html("div", { class: "grid" }, ...variants.map((one) => figure(
          one ? `Bounds of ${one.name}` : "No objective here bounds single tokens",
          histogram(batch.gaps, { bounds: one ? one.weight_bounds : [], xLabel: "exp(old_log_probs - rollout_log_probs) (log scale)", what: "tokens", label: "Gaps between sampler and trainer" }),
          "Above the axis tokens with an advantage of 0 or above, below it the others."))));
    }

    const weighed = objectives.filter((one) => one.weights);
    if (weighed.length) {
      section("weights", "What each sequence weighs",
        html("p", {}, "The rollout correction weighs tokens by how likely the trainer finds what was sampled. One vertical line a sequence, from its least to its largest weight, with a dot at the mean, in the order of the means. A weight of 0 is dropped."),
        html("div", { class: "grid" }, ...weighed.map((one) => {
          const values = one.weights.flat();
          const bounds = one.weight_bounds.map((bound) => bound.value);
          const high = Math.max(1, ...values, ...bounds.filter((bound) => bound < 4 * Math.max(1, ...values))) * 1.08;
          const last = Math.max(one.weights.length, 2);
          const plain = (list) => list.map((at) => ({ at, label: number(at) }));
          const plot = frame({ x: [0, last + 1], y: [0, high], xTicks: plain(ticks(0, last)), yTicks: plain(ticks(0, high)), xLabel: "sequences in the order of their means", yLabel: "weight", label: `Weights under ${one.name}` });
          one.weights.forEach(([least, mean, largest], index) => {
            const at = plot.atX(index + 1);
            plot.root.append(svg("line", { class: "whisker", x1: at, x2: at, y1: plot.atY(least), y2: plot.atY(largest) }));
            plot.root.append(svg("circle", { class: "positive", cx: at, cy: plot.atY(mean), r: 2.6 }, svg("title", {}, `${number(least)} to ${number(largest)}, mean ${number(mean)}`)));
          });
          one.weight_bounds.forEach((bound) => plot.level(bound.value, `${bound.label} ${number(bound.value)}`));
          return figure(one.name, plot.root, one.weight_bounds.length ? "The dashed lines are the bounds of the correction." : "Nothing bounds the weights.");
        })));
    }

    const { lengths, rewards, advantages, numbers, every } = batch.sequences;
    const sign = advantages.map((value) => (value > 0 ? "positive" : value < 0 ? "negative" : "zero"));
    const titles = numbers.map((row, index) => `sequence ${row}: ${plural(lengths[index], "token")}, ${rewards ? `reward ${number(rewards[index])}, ` : ""}advantage ${number(advantages[index])}`);
    section("lengths", "Lengths",
      html("p", {}, "One dot a sequence. A slope says that the reward, or what is made of it, prefers long or short answers; a loss with the wrong reduction makes that worse. Blue has an advantage above 0, orange below."),
      html("div", { class: "grid" },
        rewards ? figure("Length and reward", dots({ xs: lengths, ys: rewards, classes: sign, titles, xLabel: "valid tokens of the sequence", yLabel: "reward", label: "Length against reward" }), "The rewards as the file has them.") : null,
        figure("Length and advantage", dots({ xs: lengths, ys: advantages, classes: sign, titles, xLabel: "valid tokens of the sequence", yLabel: "mean advantage", label: "Length against advantage" }), "The mean over the valid tokens of the sequence.")),
      every > 1 ? html("p", { class: "soft" }, `Every ${every}th sequence is shown.`) : null);

    // The map.
    const decode = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    const { rows, columns, tokens_per_cell: perCell } = batch.map;
    const MARKS = [[1, "clipped"], [2, "truncated"], [4, "dropped"], [8, "masked"]];
    const shared = { advantage: { text: "advantage", ...batch.advantage } };
    if (batch.gap) shared.gap = { text: "gap between sampler and trainer, logarithm", ...batch.gap };
    const channels = objectives.map((one) => ({
      ratio: { text: `ratio under ${one.name}, logarithm`, ...one.ratio },
      gradient: { text: `gradient of log_probs under ${one.name}`, ...one.gradient },
      ...shared,
    }));
    for (const channel of new Set(channels.flatMap((of) => Object.values(of)))) channel.bytes = decode(channel.codes);
    const marks = objectives.map((one) => decode(one.marks));
    const chosen = { objective: 0, channel: "ratio", marks: true, row: 0, column: 0 };

    const cellWidth = Math.max(1, Math.min(10, Math.floor(1078 / columns)));
    const cellHeight = Math.max(2, Math.min(10, Math.floor(640 / rows.length)));
    const canvas = html("canvas", { width: columns * cellWidth, height: rows.length * cellHeight, tabindex: "0", role: "application", "aria-label": "Map of the batch: a row for each sequence. Arrow keys move, Home and End go to the ends of a row.", "aria-describedby": "readout" });
    const readout = html("output", { id: "readout", "aria-live": "polite" });
    const wordsPanel = html("div", { class: "words", tabindex: "0", role: "region", "aria-label": "The sequence as text" });
    const ramp = html("canvas", { width: 180, height: 12 });
    const [rampLow, rampHigh, rampWhat] = [html("span"), html("span"), html("span")];

    // Orange over paper to blue, whatever the paper; 0 is the paper's own.
    let printing = false;
    const dark = () => !printing && matchMedia("(prefers-color-scheme: dark)").matches;
    const mix = (share) => {
      const [paper, blue, orange] = dark()
        ? [[38, 45, 52], [90, 170, 240], [250, 150, 60]]
        : [[238, 240, 242], [15, 90, 170], [205, 80, 5]];
      const end = share > 0 ? blue : orange;
      const strength = Math.abs(share) ** 0.7;
      return paper.map((from, part) => Math.round(from + (end[part] - from) * strength));
    };
    const palette = () => {
      const colors = [];
      for (let code = 0; code < 256; code += 1) {
        if (code === 0) colors.push(dark() ? [20, 24, 28] : [255, 255, 255]);
        else if (code === 255) colors.push([230, 0, 200]);
        else colors.push(mix(Math.max(-1, Math.min(1, (code - 127) / 126))));
      }
      return colors;
    };
    const current = () => channels[chosen.objective][chosen.channel];
    const draw = () => {
      const context = canvas.getContext("2d");
      const image = context.createImageData(canvas.width, canvas.height);
      const colors = palette();
      const codes = current().bytes;
      const marked = marks[chosen.objective];
      const ink = dark() ? [255, 255, 255] : [0, 0, 0];
      const big = cellWidth >= 4 && cellHeight >= 4;
      for (let row = 0; row < rows.length; row += 1) {
        for (let column = 0; column < columns; column += 1) {
          const cell = row * columns + column;
          const color = colors[codes[cell]];
          const mark = chosen.marks && codes[cell] !== 0 ? marked[cell] : 0;
          for (let y = 0; y < cellHeight; y += 1) {
            for (let x = 0; x < cellWidth; x += 1) {
              // Clipped: a dot. Truncated: a line below. Dropped or masked: a diagonal.
              let on = false;
              if (mark && big) {
                const middle = Math.abs(2 * x + 1 - cellWidth) <= 2 && Math.abs(2 * y + 1 - cellHeight) <= 2;
                on = ((mark & 1) && middle) || ((mark & 2) && y === cellHeight - 1)
                  || ((mark & 12) && Math.abs(x * cellHeight - y * cellWidth) < cellWidth);
              } else if (mark) {
                on = y === cellHeight - 1;
              }
              const place = 4 * ((row * cellHeight + y) * canvas.width + column * cellWidth + x);
              image.data.set(on ? ink : color, place);
              image.data[place + 3] = 255;
            }
          }
        }
      }
      context.putImageData(image, 0, 0);
      if (!printing) {
        context.strokeStyle = dark() ? "#ffffff" : "#000000";
        context.strokeRect(chosen.column * cellWidth - 0.5, chosen.row * cellHeight - 0.5, cellWidth + 1, cellHeight + 1);
      }
      const scale = ramp.getContext("2d");
      for (let x = 0; x < ramp.width; x += 1) {
        scale.fillStyle = `rgb(${mix(-1 + (2 * x) / (ramp.width - 1))})`;
        scale.fillRect(x, 0, 1, ramp.height);
      }
      const largest = current().scale;
      const exp = chosen.channel === "ratio" || chosen.channel === "gap";
      rampLow.textContent = exp ? `${number(Math.exp(-largest), 3)} or less` : `${number(-largest, 3)} or less`;
      rampHigh.textContent = exp ? `${number(Math.exp(largest), 3)} or more` : `${number(largest, 3)} or more`;
      rampWhat.textContent = { ratio: "ratio", gap: "trainer's probability over sampler's", advantage: "advantage", gradient: "gradient" }[chosen.channel];
    };
    const value = (channel, cell) => {
      const code = channel.bytes[cell];
      if (code === 0) return null;
      if (code === 255) return NaN;
      return (channel.scale * (code - 127)) / 126;
    };
    const tell = () => {
      const cell = chosen.row * columns + chosen.column;
      const first = chosen.column * perCell;
      const last = Math.min(first + perCell, batch.shape[1]) - 1;
      const where = `Sequence ${rows[chosen.row]}, ${first === last ? `token ${first}` : `tokens ${first} to ${last}`}`;
      const of = channels[chosen.objective];
      if (of.advantage.bytes[cell] === 0) {
        readout.textContent = `${where}: masked, no valid token.`;
        return;
      }
      const about = (name, exp) => {
        const channel = of[name];
        const found = value(channel, cell);
        if (Number.isNaN(found)) return "not a number";
        const beyond = Math.abs(found) >= channel.scale && channel.scale > 0 ? " or beyond" : "";
        return `about ${number(exp ? Math.exp(found) : found, 3)}${beyond}`;
      };
      const flags = MARKS.filter(([bit]) => marks[chosen.objective][cell] & bit).map(([, name]) => name);
      const parts = [`ratio ${about("ratio", true)}`, of.gap ? `trainer over sampler ${about("gap", true)}` : null, `advantage ${about("advantage")}`, `gradient ${about("gradient")}`];
      readout.textContent = `${where}: ${parts.filter(Boolean).join(", ")}; ${flags.length ? flags.join(", ") : "kept"}.`;
    };
    let shownRow = null;
    const write = () => {
      if (!batch.words) return;
      const row = batch.words.rows[chosen.row];
      wordsPanel.replaceChildren();
      if (!row) { wordsPanel.append("The text of this sequence is left out: the page would be too large."); return; }
      const colors = palette();
      row.forEach((place, token) => {
        const cell = chosen.row * columns + Math.floor(token / perCell);
        const code = current().bytes[cell];
        if (code === 0) return;
        const [red, green, blue] = colors[code];
        const light = 0.3 * red + 0.59 * green + 0.11 * blue > 130;
        const span = html("span", { style: `background: rgb(${red},${green},${blue}); color: ${light ? "#111" : "#fff"}`, "data-cell": cell % columns }, batch.words.texts[place]);
        if (chosen.marks && marks[chosen.objective][cell]) span.classList.add("marked");
        wordsPanel.append(span);
      });
      shownRow = chosen.row;
    };
    const point = () => {
      for (const span of wordsPanel.querySelectorAll(".here")) span.classList.remove("here");
      const here = wordsPanel.querySelector(`[data-cell="${chosen.column}"]`);
      if (here) here.classList.add("here");
    };
    const update = (all) => {
      draw(); tell();
      if (all || shownRow !== chosen.row) write();
      point();
    };
    const select = (label, entries, change) => {
      const element = html("select", {}, ...entries.map(([name, text]) => html("option", { value: name }, text)));
      element.addEventListener("change", () => { change(element.value); update(true); });
      return html("label", {}, `${label} `, element);
    };
    const check = html("input", { type: "checkbox", checked: "" });
    check.addEventListener("change", () => { chosen.marks = check.checked; update(true); });
    const move = (event) => {
      const box = canvas.getBoundingClientRect();
      const column = Math.floor(((event.clientX - box.left) / box.width) * columns);
      const row = Math.floor(((event.clientY - box.top) / box.height) * rows.length);
      chosen.column = Math.max(0, Math.min(columns - 1, column));
      chosen.row = Math.max(0, Math.min(rows.length - 1, row));
      update(false);
    };
    canvas.addEventListener("pointermove", move);
    canvas.addEventListener("pointerdown", move);
    canvas.addEventListener("keydown", (event) => {
      const step = event.shiftKey ? 10 : 1;
      const steps = { ArrowLeft: [0, -step], ArrowRight: [0, step], ArrowUp: [-step, 0], ArrowDown: [step, 0], Home: [0, -columns], End: [0, columns], PageUp: [-20, 0], PageDown: [20, 0] };
      const way = steps[event.key];
      if (!way) return;
      event.preventDefault();
      chosen.row = Math.max(0, Math.min(rows.length - 1, chosen.row + way[0]));
      chosen.column = Math.max(0, Math.min(columns - 1, chosen.column + way[1]));
      update(false);
    });
    const left = rows.length < batch.shape[0] ? ` ${rows.length.toLocaleString("en")} of ${plural(batch.shape[0], "sequence")} are shown.` : "";
    const binned = perCell > 1 ? ` Each cell stands for ${perCell} neighbouring tokens and shows the one furthest from the middle of the scale; it has the marks of all of them.` : "";
    section("map", "Every token",
      html("p", {}, `A row for each sequence, a cell for each token; empty cells are masked.${binned}${left} Point at a cell, or use the arrow keys, to read it.`),
      html("div", { class: "controls" },
        objectives.length > 1 ? select("Objective", objectives.map((one, index) => [index, one.name]), (index) => { chosen.objective = Number(index); }) : null,
        select("Colour by", [["ratio", "ratio"], ...(batch.gap ? [["gap", "gap between sampler and trainer"]] : []), ["advantage", "advantage"], ["gradient", "gradient"]], (name) => { chosen.channel = name; }),
        html("label", {}, check, cellWidth >= 4 && cellHeight >= 4 ? " mark tokens: dot clipped, underline truncated, diagonal dropped or masked" : " underline clipped, truncated, dropped and masked tokens")),
      html("div", { class: "ramp" }, rampLow, ramp, rampHigh, rampWhat),
      canvas, readout, batch.words ? html("h3", {}, "The sequence as text") : null,
      batch.words ? html("p", { class: "soft" }, "Coloured as the map is; what is clipped, truncated or dropped is underlined.") : null,
      batch.words ? wordsPanel : null);
    update(true);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => update(true));
    // A print is on white paper, whatever the screen.
    const print = (on) => { if (printing !== on) { printing = on; update(true); } };
    addEventListener("beforeprint", () => print(true));
    addEventListener("afterprint", () => print(false));
    matchMedia("print").addEventListener("change", (event) => print(event.matches));

    // The gradient.
    const KINDS = [["kept", "kept"], ["truncated", "kept, with a truncated weight"], ["clipped", "at a bound of the surrogate"], ["dropped", "dropped by the rollout correction"], ["masked", "dropped by the off-policy mask"]];
    const barHeight = 24;
    const bars = svg("svg", { viewBox: `0 0 1080 ${objectives.length * (barHeight + 10) + 6}`, role: "img", "aria-label": "Where the gradient goes" });
    objectives.forEach((one, index) => {
      const top = index * (barHeight + 10) + 2;
      const name = one.name.length > 24 ? `${one.name.slice(0, 23)}…` : one.name;
      bars.append(svg("text", { x: 0, y: top + 17 }, name));
      let at = 190;
      for (const [kind, text] of KINDS) {
        const width = 620 * one.mass[kind];
        if (width > 0) bars.append(svg("rect", { class: kind, x: at, y: top, width, height: barHeight }, svg("title", {}, `${text}: ${percent(one.mass[kind])}`)));
        at += width;
      }
      const all = KINDS.filter(([kind]) => one.mass[kind] > 0).map(([kind]) => `${kind} ${percent(one.mass[kind])}`);
      bars.append(svg("text", { x: 820, y: top + 17 }, all.join(", ") || "no gradient"));
    });
    section("gradient", "Where the gradient goes",
      html("p", {}, ...prose("Without bounds every token would pull with `|r A|`, as the reduction weighs it. The bars divide the sum of these pulls by what the objective does with the token: most surrogates leave no gradient at their bound, some a bounded one. A large clipped or dropped share is work of the sampler that teaches nothing.")),
      legend(KINDS), html("div", { class: "scroll" }, bars));
    if (objectives.length > 1) {
      const cell = (value) => {
        if (value === null) return html("td", {}, "-");
        const share = Math.round(Math.abs(value) * 60);
        return html("td", { style: `background: color-mix(in srgb, var(--${value < 0 ? "negative" : "positive"}) ${share}%, var(--paper))` }, value.toFixed(3));
      };
      section("cosines", "Do the objectives agree?",
        html("p", {}, "The cosine of the angle between the gradients of two objectives: 1 is the same direction, 0 nothing in common, -1 the opposite."),
        html("div", { class: "scroll" }, html("table", { class: "matrix" },
          html("thead", {}, html("tr", {}, html("td"), ...objectives.map((one) => html("th", { scope: "col" }, one.name)), html("th", { scope: "col" }, "length of the gradient"))),
          html("tbody", {}, ...objectives.map((one) => html("tr", {}, html("th", { scope: "row" }, one.name), ...one.cosines.map(cell), html("td", {}, number(one.gradient_norm))))))));
    }

    // The metrics.
    const present = batch.sentences.filter(([name]) => objectives.some((one) => one.metrics.find(([metric, value]) => metric === name && value !== null)));
    const metric = (one, name) => (one.metrics.find(([found]) => found === name) || [])[1];
    section("metrics", "Metrics",
      html("p", {}, ...prose("With `n` valid tokens, `d = log_probs - old_log_probs`, the ratio `r`, the advantage `A` and the weight `w` of the rollout correction.")),
      html("div", { class: "scroll" }, html("table", {},
        html("thead", {}, html("tr", {}, html("th", { scope: "col" }, "metric"), ...objectives.map((one) => html("th", { scope: "col", class: "number" }, one.name)), html("th", { scope: "col" }, "what it is"))),
        html("tbody", {},
          html("tr", {}, html("th", { scope: "row" }, "loss"), ...objectives.map((one) => html("td", { class: "number" }, number(one.loss))), html("td", {}, "The number that is differentiated.")),
          ...present.map(([name, sentence]) => html("tr", {}, html("th", { scope: "row" }, name), ...objectives.map((one) => html("td", { class: "number" }, number(metric(one, name)))), html("td", {}, ...prose(sentence))))))));
    section("objectives", "Objectives",
      html("p", {}, ...prose("As `--config` of the program takes them.")),
      html("dl", {}, ...objectives.flatMap((one) => [html("dt", {}, one.name), html("dd", {}, html("code", {}, JSON.stringify(one.config)))])));
  }

  if (data.curves) {
    const { steps, curves, every, count, last } = data.curves;
    section("curves", "Over the steps",
      html("p", {}, `${plural(count, "step")}, from ${steps[0]} to ${last}.${every > 1 ? ` Of ${every} steps in a row, each curve shows the first that has the number.` : ""} A gap is a step without the number.`),
      html("div", { class: "grid small" }, ...curves.map((curve) => {
        const known = curve.values.filter((value) => value !== null);
        let [low, high] = known.length ? [Math.min(...known), Math.max(...known)] : [0, 1];
        const room = (high - low || Math.abs(high) || 1) * 0.08;
        [low, high] = [low - room, high + room];
        const plot = frame({ width: 340, height: 190, x: [0, Math.max(steps.length - 1, 1)], y: [low, high],
          xTicks: ticks(0, Math.max(steps.length - 1, 1), 4).filter((at) => Number.isInteger(at) && at < steps.length).map((at) => ({ at, label: steps[at].length > 8 ? String(at * every) : steps[at] })),
          yTicks: ticks(low, high, 4).map((at) => ({ at, label: number(at, 3) })), xLabel: "step", yLabel: "", label: curve.name });
        let path = "";
        curve.values.forEach((value, index) => {
          if (value === null) return;
          path += `${index > 0 && curve.values[index - 1] !== null ? "L" : "M"}${plot.atX(index).toFixed(1)} ${plot.atY(value).toFixed(1)}`;
        });
        plot.root.append(svg("path", { d: path, fill: "none", stroke: "var(--positive)", "stroke-width": 1.8 }));
        const isGap = (index) => curve.values[index] == null;
        curve.values.forEach((value, index) => {
          // No line leads to a point between two gaps.
          if (value !== null && (steps.length < 40 || (isGap(index - 1) && isGap(index + 1)))) {
            plot.root.append(svg("circle", { class: "positive", cx: plot.atX(index), cy: plot.atY(value), r: 2.4 }, svg("title", {}, `${steps[index]}: ${number(value)}`)));
          }
        });
        return figure(curve.name, plot.root, curve.sentence ? prose(curve.sentence) : "");
      })));
  }
  navigation.append(...sections.map(([id, title]) => html("a", { href: `#${id}` }, title)));
  page.dataset.drawn = "true";
})();
