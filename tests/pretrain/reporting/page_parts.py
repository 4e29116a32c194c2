"""What a page would load, and what it says."""

from html.parser import HTMLParser


class Parts(HTMLParser):
    """Collects what a page would load, and its words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [str(value) for name, value in attrs if name in ("src", "srcset", "data", "action")]
        self.loaded += [str(value) for name, value in attrs if name == "href" and tag != "a"]

    def handle_data(self, data: str) -> None:
        self.words.append(data)
