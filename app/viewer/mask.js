// What a brush has painted: cells of a grid over the photograph, at most 256 in each direction.

const CELLS = 256; // along the longer side

export class Mask {
  /** @param {number} aspect width / height of the photograph */
  constructor(aspect) {
    this.aspect = aspect;
    this.columns = Math.max(1, Math.round(CELLS * Math.min(1, aspect)));
    this.rows = Math.max(1, Math.round(CELLS * Math.min(1, 1 / aspect)));
    this.cells = new Uint8Array(this.columns * this.rows);
  }

  copy() {
    const copy = new Mask(this.aspect);
    copy.cells.set(this.cells);
    return copy;
  }

  /**
   * Paint a line between two points (fractions of the photograph).
   * @param {number} radius fraction of the photograph's longer side
   */
  stroke(a, b, radius) {
    const { columns, rows, cells } = this;
    const r = Math.max(0.71, radius * Math.max(columns, rows)); // never nothing
    const [ax, ay, bx, by] = [a.x * columns, a.y * rows, b.x * columns, b.y * rows];
    const length = (bx - ax) ** 2 + (by - ay) ** 2;
    const first = (value) => Math.max(0, Math.floor(value - r));
    const last = (value, count) => Math.min(count - 1, Math.ceil(value + r));
    for (let row = first(Math.min(ay, by)); row <= last(Math.max(ay, by), rows); row++) {
      for (let column = first(Math.min(ax, bx)); column <= last(Math.max(ax, bx), columns); column++) {
        const [x, y] = [column + 0.5, row + 0.5];
        const along = length ? ((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / length : 0;
        const t = Math.min(1, Math.max(0, along));
        const distance = Math.hypot(x - ax - t * (bx - ax), y - ay - t * (by - ay));
        if (distance <= r) cells[row * columns + column] = 1;
      }
    }
  }

  /** Is this point (fractions of the photograph) painted? */
  has({ x, y }) {
    const column = Math.floor(x * this.columns);
    const row = Math.floor(y * this.rows);
    const inside = column >= 0 && row >= 0 && column < this.columns && row < this.rows;
    return inside && this.cells[row * this.columns + column] === 1;
  }

  /**
   * As the server takes it: the bounding box in fractions, and run lengths row by row in it,
   * zeros first. Null if nothing is painted.
   */
  encode() {
    const { columns, rows, cells } = this;
    let [left, right, top, bottom] = [columns, -1, rows, -1];
    cells.forEach((cell, index) => {
      if (!cell) return;
      const column = index % columns;
      const row = (index - column) / columns;
      left = Math.min(left, column);
      right = Math.max(right, column);
      top = Math.min(top, row);
      bottom = row;
    });
    if (right < 0) return null;
    const runs = [];
    let value = 0;
    let run = 0;
    for (let row = top; row <= bottom; row++) {
      for (let column = left; column <= right; column++) {
        if (cells[row * columns + column] === value) {
          run += 1;
        } else {
          runs.push(run);
          value = 1 - value;
          run = 1;
        }
      }
    }
    runs.push(run);
    const [width, height] = [right - left + 1, bottom - top + 1];
    return {
      x: left / columns,
      y: top / rows,
      width: width / columns,
      height: height / rows,
      mask: `${width}x${height}:${runs.join(",")}`,
    };
  }

  /** The outline, as the path of an SVG whose unit is the photograph. */
  outline() {
    const { columns, rows, cells } = this;
    const at = (column, row) =>
      column >= 0 && row >= 0 && column < columns && row < rows ? cells[row * columns + column] : 0;
    const path = [];
    for (let row = 0; row <= rows; row++) {
      for (let column = 0; column < columns; column++) {
        const start = column;
        while (column < columns && at(column, row - 1) !== at(column, row)) column += 1;
        if (column > start) path.push(`M${start / columns} ${row / rows}H${column / columns}`);
      }
    }
    for (let column = 0; column <= columns; column++) {
      for (let row = 0; row < rows; row++) {
        const start = row;
        while (row < rows && at(column - 1, row) !== at(column, row)) row += 1;
        if (row > start) path.push(`M${column / columns} ${start / rows}V${row / rows}`);
      }
    }
    return path.join("");
  }
}
