"""A page on the Hub: one HTML file as a static Space, linked from the card of the subset that it is about."""

import html
import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, SpaceCard, SpaceCardData
from huggingface_hub.errors import BucketNotFoundError, RepositoryNotFoundError

from .. import __version__
from ..names import full_repo_id, is_repo_id, refuse_public
from .commits import commit_on_top, make_ready, saying_what_to_do
from .privacy import refuse_token
from .readme import read_head
from .repository import Repository
from .sections import linked_page, look_line, with_link


# What each of our pages says of itself.
MADE = "Made by diq_hf"
ABOUT = """
One page, made by diq_hf: what difficulty and influence say of a dataset's rows, or what training on a choice of them
is worth ([arXiv 2508.01450](https://huggingface.co/papers/2508.01450)).
"""


def push_report(
    page: str | Path,
    repo_id: str,
    dataset: str | None = None,
    config_name: str | None = None,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
) -> str:
    """Publishes a page as a static Space, for people to look at before they load the rows.

    The page holds the text of rows: whoever can see the Space can read them.

    Args:
        page (`str` or `Path`):
            What [`write_report`] wrote, or the `index.html` of [`compare`].
        repo_id (`str`):
            The Space, `"name"` or `"namespace/name"`; made if it is not there.
        dataset (`str`, *optional*):
            Dataset repository of [`push_subset`], whose card gets a link to the page; the next push keeps it.
        config_name (`str`, *optional*):
            Configuration there; may be left out if there is one.
        private (`bool`, *optional*):
            Whether a new Space is private; by default as the namespace has it.
        token (`str` or `bool`, *optional*):
            Access token, by default that of `hf auth login`.

    Returns:
        `str`: Address of the Space.

    Raises:
        `ValueError`: The file is no such page or holds a token, the Space is another one's, or it would show rows of a
            private or gated dataset to everyone.
        [`~huggingface_hub.errors.HfHubHTTPError`]: The Hub refused.

    Example:

    ```python
    push_report(write_report(scored, "report.html", ratio=0.01), "me/medical-diq-report", "me/medical-diq")
    ```
    """
    read_page(page)
    return ReportSpace(repo_id, dataset, config_name, private=private, token=token).push(page)


class ReportSpace:
    """The Space that a page goes to. Making one looks at the Hub, and refuses before the page has cost anything.

    Args and errors are those of [`push_report`]; `shown` are places on the Hub whose rows the page shows: dataset
    repositories, and buckets as `"buckets/me/name"`.
    """

    def __init__(
        self,
        repo_id: str,
        dataset: str | None = None,
        config_name: str | None = None,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        shown: Sequence[str] = (),
    ):
        for name in (repo_id, *([dataset] if dataset is not None else ())):
            if not is_repo_id(name):
                raise ValueError(f"{name!r} can be no repository on the Hub. Name it as in 'me/medical-diq'.")
        if config_name is not None and dataset is None:
            raise ValueError("`config_name` is a configuration of `dataset`, which is not given.")
        self.token, self.private, self.shown = token, private, shown
        self.api = HfApi(token=token, library_name="diq_hf", library_version=__version__)
        with saying_what_to_do(repo_id):
            self.api.whoami()  # a token that may do nothing is told of first
            self.repo_id = full_repo_id(self.api, repo_id)
            self.dataset = dataset if dataset is None else full_repo_id(self.api, dataset)
        self._looked_at()
        if self.dataset is not None:
            self.config_name = self._configuration(config_name)

    def push(self, page: str | Path) -> str:
        """Publishes the page, and gives its address."""
        text = read_page(page)
        refuse_token(text, self.token if isinstance(self.token, str) else None, str(page))
        title = html.unescape(re.search("<title>(.*?)</title>", text, flags=re.DOTALL)[1]).strip()

        def prepare() -> tuple[str, list[CommitOperationAdd]]:
            sha, readme = self._looked_at()  # again: much may have happened while the page was made
            operations = [CommitOperationAdd("index.html", text.encode())]
            if (card := self._card(title, readme)) is not None:
                operations.append(CommitOperationAdd("README.md", str(card).encode()))
            return sha, operations

        with saying_what_to_do(self.repo_id):
            make_ready(self.api, self.repo_id, self.private, "space", space_sdk="static")
            commit_on_top(self.api, self.repo_id, prepare, "A page to look at", repo_type="space")
        address = f"{self.api.endpoint}/spaces/{self.repo_id}"
        if self.dataset is not None:
            with saying_what_to_do(self.dataset, f"The page is at {address}, and {self.dataset} does not link it."):
                self._link()
        return address

    def _looked_at(self) -> tuple[str | None, str | None]:
        """The Space's last commit, if there is one, and its README, if a page of ours is there.

        Raises:
            `ValueError`: It is another one's, its README cannot be read, or readers of the dataset and of the page are
                not the same.
        """
        if not self.api.repo_exists(self.repo_id, repo_type="space"):
            self._check_readers(bool(self.private))
            return None, None
        refuse_public(self.api, self.repo_id, self.private, "space")
        info = self.api.repo_info(self.repo_id, repo_type="space")
        files = [sibling.rfilename for sibling in info.siblings]
        is_page = info.sdk == "static" and {"index.html", "README.md"} <= set(files)
        is_ours = is_page and MADE.encode() in self._read("index.html", info.sha)
        # With its first commit alone, a Space holds what the Hub puts there: a push was killed, or a person made it.
        commits = self.api.list_repo_commits(self.repo_id, repo_type="space", revision=info.sha)
        is_new = info.sdk == "static" and len(commits) == 1
        if not (is_ours or is_new):
            raise ValueError(f"{self.repo_id} is a Space with something else. Name a new one.")
        self._check_readers(info.private)
        return info.sha, self._readme(info.sha) if is_ours else None

    def _check_readers(self, is_private: bool) -> None:
        """Whoever can see the page can see the rows, and who reads the card that links it can open it."""
        closed = {name: self._closed(name) for name in (*filter(None, [self.dataset]), *self.shown)}
        for name, how in closed.items():
            if how and not is_private:
                raise ValueError(
                    f"{name} is {how}, and the page shows its rows. Make the Space private, too: `private=True`."
                )
        if self.dataset is not None and is_private and not closed[self.dataset]:
            raise ValueError(
                f"{self.repo_id} is or will be private, so a reader of the card of {self.dataset} could not open it. "
                "Leave out `dataset`, or let the Space be public."
            )

    def _closed(self, name: str) -> str | None:
        """Why not everyone can read what is there; `None` where everyone can."""
        try:
            if name.startswith("buckets/"):
                return "private" if self.api.bucket_info(name.removeprefix("buckets/")).private else None
            info = self.api.repo_info(name, repo_type="dataset")
        except (BucketNotFoundError, RepositoryNotFoundError):
            if name == self.dataset:
                raise
            return "private or gone"  # rows that were read there before; the Hub says the same of both
        return "private" if info.private else "gated" if info.gated else None

    def _configuration(self, config_name: str | None) -> str:
        """The configuration whose section of the card gets the link."""
        present = Repository(self.api, self.dataset, None)
        if config_name is None and len(present.subsets) != 1:
            published = f"has the subsets {present.subsets}: pass one as `config_name`"
            raise ValueError(f"{self.dataset} {published if present.subsets else 'has no subset: push it first'}.")
        config_name = present.subsets[0] if config_name is None else config_name
        if config_name not in present.subsets:
            raise ValueError(f"{self.dataset} has no subset {config_name!r} that was published.")
        with_link(present.readme or "", config_name, self.repo_id)
        return config_name

    def _read(self, file: str, revision: str) -> bytes:
        path = self.api.hf_hub_download(self.repo_id, file, repo_type="space", revision=revision)
        return Path(path).read_bytes()

    def _readme(self, revision: str) -> str:
        try:
            text = self._read("README.md", revision).decode("utf-8-sig")
            read_head(text)
        except UnicodeDecodeError as error:
            raise ValueError(f"README.md of {self.repo_id} is not UTF-8: {error}. Mend it there.") from error
        except ValueError as error:
            raise ValueError(f"{self.repo_id}: {error}. Mend it there.") from error
        return text

    def _card(self, title: str, present: str | None) -> SpaceCard | None:
        """The Space's README, where it changes: of one that people have edited, all stays but for the datasets, and
        for what the Hub needs and it lacks.
        """
        needed = {"title": title[:100], "sdk": "static", "emoji": "🔎"}
        head = SpaceCardData(**needed, tags=["diq", "data-selection"]).to_yaml()
        card = SpaceCard(f"---\n{head}\n---\n# {title[:100]}\n{ABOUT}" if present is None else present)
        changes = {name: value for name, value in needed.items() if card.data.get(name) is None}
        known = card.data.get("datasets") or []
        known = [known] if isinstance(known, str) else known
        if self.dataset is not None and self.dataset not in known:
            changes["datasets"] = [*known, self.dataset]
        for name, value in changes.items():
            card.data[name] = value
        return card if present is None or changes else None

    def _link(self) -> None:
        def prepare() -> tuple[str, list[CommitOperationAdd]]:
            present = Repository(self.api, self.dataset, None)
            readme = with_link(present.readme or "", self.config_name, self.repo_id)
            return present.sha, [CommitOperationAdd("README.md", readme.encode())]

        if linked_page(Repository(self.api, self.dataset, None).readme, self.config_name) != look_line(self.repo_id):
            commit_on_top(self.api, self.dataset, prepare, "Link a page to look at", repo_type="dataset")


def read_page(page: str | Path) -> str:
    """A page's text.

    Raises:
        `ValueError`: It is no page of ours.
    """
    text = Path(page).read_bytes().decode("utf-8", errors="replace")
    if MADE not in text or "<title>" not in text:
        raise ValueError(f"{page} is no page that diq wrote.")
    return text
