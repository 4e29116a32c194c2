"use strict";
// How numbers, times and elements are written. Text enters the page only through textContent.

const MISSING = "–";

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") made.textContent = value;
    else if (name === "style") for (const [key, text] of Object.entries(value)) made.style.setProperty(key, text);
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function number(value, digits = 4) {
  if (value === null || value === undefined || !Number.isFinite(value)) return MISSING;
  const size = Math.abs(value);
  for (const [unit, sign] of [[1e12, "T"], [1e9, "B"], [1e6, "M"]])
    if (size >= unit) return (value / unit).toPrecision(Math.min(digits, 3)) + sign;
  if (size >= 1e4) return (value / 1e3).toPrecision(digits).replace(/\.?0+$/, "") + "k";
  if (size > 0 && size < 1e-3) return value.toExponential(digits > 3 ? 2 : 1).replace(/\.?0+e/, "e");
  return String(Number(value.toPrecision(digits)));
}

const whole = (value) => (value === null || value === undefined ? MISSING : Math.round(value).toLocaleString("en-US"));

const percent = (value, digits = 1) => (Number.isFinite(value ?? NaN) ? (value * 100).toFixed(digits) + " %" : MISSING);

function inUnit(value, unit) {
  if (unit === "%") return Number.isFinite(value ?? NaN) ? number(value * 100, 3) + " %" : MISSING;
  return unit === "h" ? duration(value * 3600) : number(value);
}

function duration(seconds) {
  if (!Number.isFinite(seconds ?? NaN)) return MISSING;
  if (seconds < 10) return seconds.toFixed(1) + " s";
  if (seconds < 60) return seconds.toFixed(0) + " s";
  if (seconds >= 600 && seconds < 3570) return `${Math.round(seconds / 60)} min`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`.replace("60 s", "59 s");
  const minutes = Math.round(seconds / 60), hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

function clock(seconds) {
  const moment = new Date(seconds * 1000), pad = (part) => String(part).padStart(2, "0");
  return `${pad(moment.getMonth() + 1)}-${pad(moment.getDate())} ${pad(moment.getHours())}:${pad(moment.getMinutes())}:${pad(moment.getSeconds())}`;
}

// About `count` round numbers between two bounds.
function ticks(from, to, count) {
  const rough = (to - from) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.999);
  const found = [];
  for (let at = Math.ceil(from / step - 1e-9); at * step <= to + step * 1e-9; at++) found.push(Number((at * step).toPrecision(12)));
  return found;
}

// Round numbers for a logarithmic axis: as on a linear one over a narrow range, powers of ten over a wide one.
function logTicks(from, to) {
  if (to / from < 5) return ticks(from, to, 4);
  const found = [], factors = to / from < 30 ? [1, 2, 3, 5] : to / from < 200 ? [1, 2, 5] : [1];
  for (let power = Math.floor(Math.log10(from)); power <= Math.ceil(Math.log10(to)); power++)
    for (const factor of factors) {
      const at = Number((factor * 10 ** power).toPrecision(3));
      if (at >= from * 0.999 && at <= to * 1.001) found.push(at);
    }
  return found;
}
