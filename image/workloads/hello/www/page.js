"use strict";
const set = (id, text) => { if (text) document.getElementById(id).textContent = text; };

function span(seconds) {
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const parts = [];
  for (const [name, size] of units) {
    const count = Math.floor(seconds / size);
    if (count > 0 && parts.length < 2) parts.push(`${count} ${name}`);
    seconds %= size;
  }
  return parts.join(" ") || "0 s";
}

async function refresh() {
  try {
    const about = await (await fetch("/about.json")).json();
    set("name", about.name);
    set("image", [about.image, about.version, about.flavour && `(${about.flavour})`].filter(Boolean).join(" "));
    set("kernel", about.kernel);
    set("uptime", span(about.uptime_s));
    document.querySelector("#root code").textContent = about.root_hash || "none";
    document.title = about.name || document.title;
  } catch {
    set("uptime", "no answer");
  }
}

refresh();
setInterval(refresh, 10000);
