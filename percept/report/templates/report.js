// A click on a heading sorts its table, another one turns the order round.
const number = (text) => parseFloat(text.replace(/\u2212/g, "-").replace(/[,\u2264\s]/g, ""));

for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  if (rows.length < 3) continue;
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    if (!head.textContent) return;
    const button = document.createElement("span"); // a real button vanishes from printed pages
    button.role = "button";
    button.tabIndex = 0;
    button.append(...head.childNodes);
    head.append(button);
    const texts = new Map(rows.map((row) => [row, row.cells[column].textContent.trim()]));
    const numbers = new Map(rows.map((row) => [row, number(texts.get(row))]));
    const numeric = head.classList.contains("n");
    button.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      button.click();
    });
    button.addEventListener("click", () => {
      const first = numeric ? "descending" : "ascending";
      const other = numeric ? "ascending" : "descending";
      const way = head.getAttribute("aria-sort") === first ? other : first;
      for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", way);
      const sign = way === "ascending" ? 1 : -1;
      const compare = (a, b) => {
        if (!numeric) return sign * texts.get(a).localeCompare(texts.get(b));
        const [x, y] = [numbers.get(a), numbers.get(b)];
        if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
        return sign * (x - y);
      };
      body.append(...[...rows].sort(compare));
    });
  });
}
