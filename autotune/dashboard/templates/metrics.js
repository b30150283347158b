"use strict";
// A launch's metrics: their names, units and what all launches share stand once in the page, in a pack.
async function listMetrics(list) {
  const values = find("span[hidden]", list).textContent.split("\n");
  const body = find("tbody", list);
  let place = 0;
  for (const line of (await unpacked("pack-" + list.dataset.pack).text()).split("\n")) {
    const [name, unit, shared] = line.split("\t");
    const value = shared === undefined ? values[place++] : shared;
    if (!value) continue;
    const row = body.insertRow();
    row.insertCell().textContent = name;
    row.insertCell().textContent = value;
    row.insertCell().textContent = unit;
    row.cells[1].className = "n";
  }
  searchMetrics(list);
}

// Rows that have all the words looked for, in any order.
function searchMetrics(list) {
  const words = find("input", list).value.toLowerCase().split(/\s+/);
  const rows = [...find("tbody", list).rows];
  let shown = 0;
  for (const row of rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
    shown += !row.hidden;
  }
  find("[role=status]", list).textContent = `${shown} of ${rows.length} metrics`;
}
