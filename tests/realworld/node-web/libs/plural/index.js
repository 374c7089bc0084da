module.exports = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
