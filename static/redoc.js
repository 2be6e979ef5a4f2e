// ReDoc's footer fetches a logo from its maker's host. The content policy refuses it, with an error in
// the console; so the request is not made, and ReDoc is told that the image failed: it then shows none.
HTMLImageElement.prototype.setAttribute = function (name, value) {
  if (name === "src" && new URL(value, location.href).origin !== location.origin) {
    queueMicrotask(() => this.dispatchEvent(new Event("error")));
  } else {
    Element.prototype.setAttribute.call(this, name, value);
  }
};

Object.defineProperty(HTMLImageElement.prototype, "src", {
  set(value) {
    this.setAttribute("src", value);
  },
});

const element = document.getElementById("redoc");
const fontFamily = getComputedStyle(document.body).fontFamily;

Redoc.init(
  element.dataset.url,
  {
    theme: {
      colors: { primary: { main: "#00665c" } },
      typography: { fontFamily, headings: { fontFamily, fontWeight: "650" } },
    },
  },
  element,
);
