module.exports = ["one", "two", "three"];
