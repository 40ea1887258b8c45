// A page about one model.

function inspectPage() {
  return [];
}
