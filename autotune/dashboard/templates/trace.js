"use strict";
// A trace on a canvas: autotune/dashboard/trace_packing.py says how its events lie in the page.
const ROW = 22, AXIS = 26;

function readTrace(buffer) {
  const bytes = new Uint8Array(buffer), length = new DataView(buffer).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
  let at = 4 + length;
  const column = (count, into) => {
    for (let i = 0; i < count; i++) {
      let byte = bytes[at++], value = byte & 127, unit = 128;
      while (byte > 127) {
        byte = bytes[at++];
        value += (byte & 127) * unit;
        unit *= 128;
      }
      into[i] = value;
    }
    return into;
  };
  let from = Infinity, to = 0;
  const rows = head.rows.map(([name, count]) => {
    const start = column(count, new Float64Array(count)), end = column(count, new Float64Array(count));
    const label = column(count, new Uint32Array(count)), size = column(count, new Float64Array(count));
    const range = column(count, new Uint32Array(count)), busy = new Float64Array(count + 1);
    let clock = head.first;
    for (let i = 0; i < count; i++) {
      busy[i + 1] = busy[i] + end[i];
      start[i] = clock += start[i];
      end[i] = clock += end[i];
    }
    from = Math.min(from, start[0]);
    to = Math.max(to, clock);
    return { name, count, start, end, label, size, range, busy };
  });
  return { labels: head.labels, rows, from, to: Math.max(to, from + 1) };
}

// The first event of a row that ends after a time; low: of those before it none does.
function firstAfter(row, time, low = 0) {
  let high = low;
  for (let step = 1; high < row.count && row.end[high] <= time; step *= 2) {
    low = high + 1;
    high += step;
  }
  high = Math.min(high, row.count);
  while (low < high) {
    const middle = (low + high) >> 1;
    if (row.end[middle] > time) high = middle;
    else low = middle + 1;
  }
  return low;
}

// How long a row's events took until a time; i: the first that ends after it.
function busyUntil(row, time, i) {
  return row.busy[i] + (i < row.count && row.start[i] < time ? time - row.start[i] : 0);
}

// A colour "#rrggbb" as a pixel has it.
function bgr(colour) {
  const rgb = parseInt(colour.trim().slice(1), 16);
  return ((rgb & 255) << 16) | (rgb & 0xff00) | (rgb >> 16);
}

const STEPS = [["ns", 1], ["µs", 1e3], ["ms", 1e6], ["s", 1e9]];
function nanoseconds(value, digits = 4) {
  const [unit, size] = STEPS.findLast(([, size]) => Math.abs(value) >= size) || STEPS[0];
  return `${Number((value / size).toPrecision(digits)).toLocaleString("en")} ${unit}`;
}

async function openTrace(canvas) {
  const trace = readTrace(await unpacked("pack-" + canvas.dataset.pack).arrayBuffer());
  const said = find(".event", canvas.closest("figure")), pen = canvas.getContext("2d");
  const at = { from: trace.from, to: trace.to, row: 0, event: -1 };
  const least = 50 / 1e3; // ns: nothing is shorter than one
  const strip = document.createElement("canvas"), thin = strip.getContext("2d"); // a row's small events, a pixel high
  let asked = 0, width = 0, gutter = 0, line = null, pixels = null;

  const time = (x) => at.from + ((x - gutter) / (width - gutter)) * (at.to - at.from);
  function show(from, to) {
    const span = Math.min(Math.max(to - from, least), trace.to - trace.from);
    at.from = Math.min(Math.max(from, trace.from), trace.to - span);
    at.to = at.from + span;
    if (!asked) asked = requestAnimationFrame(draw);
  }
  const zoom = (factor, middle) => show(middle - (middle - at.from) * factor, middle + (at.to - middle) * factor);

  function draw() {
    asked = 0;
    if (!canvas.isConnected) return;
    performance.mark("trace-frame");
    const style = getComputedStyle(root), scale = devicePixelRatio;
    const colours = { other: style.getPropertyValue("--quiet"), range: style.getPropertyValue("--range") };
    const colour = (tone) => (colours[tone] ??= style.getPropertyValue("--" + tone));
    const pigments = {}, inks = trace.labels.map(([, tone]) => (pigments[tone] ??= bgr(colour(tone))));
    const height = trace.rows.length * ROW + AXIS;
    width = canvas.clientWidth;
    gutter = Math.min(230, Math.round(width * 0.3));
    if (width <= gutter) return;
    if (strip.width !== width - gutter || !line) {
      strip.width = width - gutter;
      strip.height = 1;
      line = thin.createImageData(strip.width, 1);
      pixels = new Uint32Array(line.data.buffer);
    }
    if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
      canvas.style.height = height + "px";
    }
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.font = "12px system-ui, sans-serif";
    pen.textBaseline = "middle";
    pen.imageSmoothingEnabled = false;
    axis(colour, height);
    const text = colour("text"), back = colour("back");
    trace.rows.forEach((row, n) => {
      const top = AXIS + n * ROW;
      if (n === at.row) {
        pen.fillStyle = colour("panel");
        pen.fillRect(0, top, width, ROW);
      }
      pen.fillStyle = text;
      clipped(row.name, 4, top, gutter - 8);
      rowOf(row, top + 3, colour, inks, back, n === at.row ? at.event : -1);
    });
    performance.measure("trace frame", "trace-frame");
  }

  function axis(colour, height) {
    const span = at.to - at.from, step0 = (span / Math.max(width - gutter, 1)) * 130;
    const power = 10 ** Math.floor(Math.log10(step0)), step = [1, 2, 5, 10].find((m) => m * power >= step0) * power;
    pen.strokeStyle = colour("line");
    pen.fillStyle = colour("quiet");
    pen.beginPath();
    for (let tick = Math.ceil((at.from - trace.from) / step) * step; tick <= at.to - trace.from; tick += step) {
      const x = Math.round(gutter + ((tick + trace.from - at.from) / span) * (width - gutter)) + 0.5;
      pen.moveTo(x, AXIS - 6);
      pen.lineTo(x, height);
      pen.fillText(nanoseconds(tick, 8), x + 3, 10);
    }
    pen.stroke();
  }

  function clipped(text, x, top, room) {
    if (room < 14) return;
    pen.save();
    pen.beginPath();
    pen.rect(x, top, room, ROW);
    pen.clip();
    pen.fillText(text, x, top + ROW / 2 + 1);
    pen.restore();
  }

  // Events of some pixels one by one; smaller ones by the share of each pixel that they cover.
  function rowOf(row, top, colour, inks, back, chosen) {
    const perPixel = (at.to - at.from) / (width - gutter), tall = ROW - 6, most = pixels.length;
    const x = (t) => gutter + (t - at.from) / perPixel;
    const paint = (column, ink, share) => {
      if (column < 0 || column >= most) return;
      pixels[column] = (Math.round(255 * Math.min(Math.max(share, 0.25), 1)) << 24) | ink;
    };
    pixels.fill(0);
    let i = firstAfter(row, at.from), texts = 0, last = -1;
    while (i < row.count && row.start[i] < at.to) {
      const label = row.label[i];
      const left = Math.max(x(row.start[i]), gutter), right = Math.min(x(row.end[i]), width);
      if (right - left >= 3) {
        const [name, tone] = trace.labels[label];
        pen.fillStyle = colour(tone);
        pen.fillRect(left, top, right - left - 1, tall);
        if (right - left > 40 && texts++ < 200) {
          pen.fillStyle = tone === "range" ? colour("text") : back;
          clipped(name, left + 4, top - 3, right - left - 8);
        }
        i++;
      } else if (row.end[i] - row.start[i] >= perPixel) {
        for (let column = Math.floor(left); column < right; column++) paint(column - gutter, inks[label], 1);
        i++;
      } else {
        const column = Math.max(Math.floor(left), last + 1), since = time(column), until = time(column + 1);
        const first = firstAfter(row, since, Math.max(i - 1, 0)), next = firstAfter(row, until, first);
        paint(column - gutter, inks[label], (busyUntil(row, until, next) - busyUntil(row, since, first)) / perPixel);
        i = Math.max(next, i + 1);
        last = column;
      }
    }
    thin.putImageData(line, 0, 0);
    pen.drawImage(strip, gutter, top, most, tall);
    if (chosen >= 0) {
      pen.strokeStyle = colour("text");
      pen.lineWidth = 2;
      const left = Math.max(x(row.start[chosen]), gutter);
      pen.strokeRect(left, top, Math.max(Math.min(x(row.end[chosen]), width) - left, 2), tall);
      pen.lineWidth = 1;
    }
  }

  function choose(row, event) {
    at.row = Math.min(Math.max(row, 0), trace.rows.length - 1);
    const here = trace.rows[at.row];
    at.event = Math.min(event, here.count - 1);
    if (at.event < 0) said.textContent = `${here.name}: ${here.count.toLocaleString("en")} events`;
    else {
      const i = at.event, size = here.size[i] - 1, length = here.end[i] - here.start[i];
      let text = `${here.name}, ${i + 1} of ${here.count.toLocaleString("en")}: ${trace.labels[here.label[i]][0]}, `;
      text += `${nanoseconds(length)} from ${nanoseconds(here.start[i] - trace.from, 9)}`;
      if (size >= 0) text += `, ${size.toLocaleString("en")} bytes` + (length ? ` (${(size / length).toPrecision(3)} GB/s)` : "");
      if (here.range[i]) text += `, in ${trace.labels[here.range[i] - 1][0]}`;
      said.textContent = text;
    }
    show(at.from, at.to);
  }

  // To an event, moving the view when it lies outside.
  function go(event) {
    const row = trace.rows[at.row], i = Math.min(Math.max(event, 0), row.count - 1);
    choose(at.row, i);
    const span = at.to - at.from;
    if (row.start[i] < at.from || row.end[i] > at.to) show(row.start[i] - span * 0.3, row.start[i] + span * 0.7);
  }

  const keys = {
    ArrowLeft: () => show(at.from - (at.to - at.from) * 0.15, at.to - (at.to - at.from) * 0.15),
    ArrowRight: () => show(at.from + (at.to - at.from) * 0.15, at.to + (at.to - at.from) * 0.15),
    ArrowUp: () => choose(at.row - 1, -1),
    ArrowDown: () => choose(at.row + 1, -1),
    "+": () => zoom(1 / 1.5, middle()), "=": () => zoom(1 / 1.5, middle()), "-": () => zoom(1.5, middle()),
    0: () => show(trace.from, trace.to), Home: () => show(trace.from, trace.to),
    n: () => go(at.event < 0 ? firstAfter(trace.rows[at.row], at.from) : at.event + 1),
    p: () => go(at.event < 0 ? firstAfter(trace.rows[at.row], at.from) : at.event - 1),
  };
  const middle = () => {
    const row = trace.rows[at.row], i = at.event;
    const shown = i >= 0 && row.end[i] > at.from && row.start[i] < at.to;
    return shown ? Math.min(Math.max((row.start[i] + row.end[i]) / 2, at.from), at.to) : (at.from + at.to) / 2;
  };
  canvas.addEventListener("keydown", (event) => {
    const action = !event.ctrlKey && !event.metaKey && !event.altKey && keys[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });
  canvas.addEventListener("wheel", (event) => {
    if (document.activeElement !== canvas && !event.ctrlKey) return; // the page scrolls until the picture is chosen
    event.preventDefault();
    if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
      const by = ((event.deltaX || event.deltaY) / width) * (at.to - at.from);
      show(at.from + by, at.to + by);
    } else zoom(1.0015 ** event.deltaY, time(Math.max(event.offsetX, gutter)));
  }, { passive: false });
  let held = null;
  canvas.addEventListener("pointerdown", (event) => {
    canvas.focus({ preventScroll: true });
    canvas.setPointerCapture(event.pointerId);
    held = { x: event.offsetX, from: at.from, to: at.to, moved: false };
  });
  canvas.addEventListener("pointermove", (event) => {
    if (held) {
      const by = ((held.x - event.offsetX) / (width - gutter)) * (held.to - held.from);
      held.moved ||= Math.abs(held.x - event.offsetX) > 3;
      if (held.moved) show(held.from + by, held.to + by);
    }
  });
  canvas.addEventListener("pointerup", (event) => {
    if (held && !held.moved) {
      const row = Math.floor((event.offsetY - AXIS) / ROW), here = trace.rows[row];
      const i = here ? firstAfter(here, time(event.offsetX)) : 0;
      // A pixel may hold many: the nearest within three of them.
      const near = here && i < here.count && here.start[i] <= time(event.offsetX + 3);
      choose(row, near && event.offsetX > gutter ? i : -1);
    }
    held = null;
  });
  new ResizeObserver(() => show(at.from, at.to)).observe(canvas);
  canvas.redraw = () => show(at.from, at.to); // for another theme
  draw();
}
