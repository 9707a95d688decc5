"""One question to an LLM judge through `InferenceClient`, asked again where the network or the server fails."""

import json
import random
import re
import threading
import time
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from datasets.utils import tqdm
from huggingface_hub import InferenceClient, get_session, get_token

# `HTTPError` is httpx's or httpx2's, whichever this huggingface_hub is built on.
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled
from transformers.utils import logging

from .rubric import Scale, UnusableAnswer, answer_form, answer_schema, instructions, read_levels


logger = logging.get_logger(__name__)

LONGEST_DELAY = 60.0
# Statuses no later try can change, with what to do about them.
REMEDIES = {
    401: "The token is missing or wrong. Pass the endpoint's own as `token` (`--token-env NAME` on the command line).",
    402: "The account has no credit left. Add some, or use another provider or endpoint.",
    403: "The token may not use this model. Give it the permission, accept the model's terms, or use another token.",
    404: "There is no such model or path. Check `model` and `base_url`, which usually ends in /v1.",
}
# Arguments that some models refuse whatever their value, with what to do about them. A limit that is too large for one
# question is worded in other ways.
UNSUPPORTED = re.compile(
    r"(?=.*(?:unsupported|not support|unrecognized|unknown (?:parameter|argument)|not permitted))"
    r".*?\b(max_tokens|max_completion_tokens|temperature|seed|response_format)\b",
    re.IGNORECASE,
)
INSTEAD = {
    "max_tokens": "Pass `max_completion_tokens=4096` in its place, or `max_tokens=None` for no limit.",
    "max_completion_tokens": "Pass `max_tokens` in its place.",
    "temperature": "Pass `temperature=None`, so that none is sent.",
    "seed": "Leave `seed` out.",
    "response_format": "Leave `json_schema` out.",
}
# Whether what this thread sends is a question.
_asking: ContextVar[bool] = ContextVar("asking", default=False)


class JudgeError(ConnectionError):
    """The judge cannot be asked anything. The message says why and what to change."""


class NoAnswer(OSError):
    """One question got no answer, however often it was asked; others may."""


@dataclass(frozen=True)
class Answer:
    """What a judge said to one question.

    Args:
        outcome (`str`):
            `"labelled"`, `"refused"`, `"cut off"` at `max_tokens`, or `"unusable"`, which is worth asking again.
        levels (`dict[str, int]`, *optional*):
            The level of each perspective, where labelled.
        reason (`str`):
            Why there are no levels.
        text (`str`):
            The answer as it came.
        prompt_tokens (`int`, *optional*):
            As the server counts them, if it does.
        completion_tokens (`int`, *optional*):
            As the server counts them, if it does.
    """

    outcome: str
    levels: dict[str, int] | None = None
    reason: str = ""
    text: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None

    def to_dict(self) -> dict:
        """As plain JSON."""
        return asdict(self)


class Judge:
    """A chat model that rates questions by a rubric.

    Args:
        model (`str`):
            The model's name on the endpoint or on the Hub.
        rubric (`dict[str, Scale]`):
            The perspectives to rate.
        base_url (`str`, *optional*):
            An OpenAI-compatible endpoint; by default the model is reached through an Inference Provider.
        provider (`str`, *optional*):
            Which Inference Provider; by default the Hub picks one.
        token (`str`, *optional*):
            With `base_url` the endpoint's own, and none is sent by default; else the saved Hugging Face token.
        temperature (`float` or `None`, *optional*, defaults to `0.0`):
            Sampling temperature; `None` sends none, for models that take no other than their own.
        max_tokens (`int` or `None`, *optional*, defaults to `1024`):
            Longest answer, in tokens; a model that thinks first needs more. `None` sends no limit.
        max_completion_tokens (`int`, *optional*):
            The same by the name that OpenAI's reasoning models want (o1, o3, gpt-5), sent in place of `max_tokens`.
        seed (`int`, *optional*):
            Seed of the sampling, where the server has one.
        json_schema (`bool`, *optional*, defaults to `False`):
            Ask the server to hold the model to a JSON schema; huggingface_hub words that for a `base_url` as TGI does.
            Answers are checked either way.
        timeout (`float`, *optional*, defaults to `120.0`):
            Seconds a server may be silent.
        max_retries (`int`, *optional*, defaults to `5`):
            How often a question is asked again.
        retry_delay (`float`, *optional*, defaults to `1.0`):
            Seconds before the second try; doubled with every further one, up to a minute, and jittered. A server that
            says how long to wait (`Retry-After`) is obeyed.

    Example:

    ```python
    judge = Judge("Qwen/Qwen3-32B", RUBRIC, base_url="http://localhost:8000/v1")
    judge.ask("Which organ pumps the blood?").levels
    ```
    """

    def __init__(
        self,
        model: str,
        rubric: Mapping[str, Scale],
        base_url: str | None = None,
        provider: str | None = None,
        token: str | None = None,
        temperature: float | None = 0.0,
        max_tokens: int | None = 1024,
        max_completion_tokens: int | None = None,
        seed: int | None = None,
        json_schema: bool = False,
        timeout: float = 120.0,
        max_retries: int = 5,
        retry_delay: float = 1.0,
    ):
        if base_url is not None:
            parts = urlsplit(base_url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError("`base_url` is no address. It looks like http://localhost:8000/v1.")
            if parts.username or parts.password or parts.query:
                raise ValueError("`base_url` holds a user, password or query. Pass the endpoint's key as `token`.")
            if provider is not None:
                raise ValueError("`base_url` and `provider` are two ways to the same thing. Pass one of them.")
        if max_retries < 0:
            raise ValueError(f"`max_retries` must be 0 or more, got {max_retries}.")
        self.perspectives = tuple(rubric)
        self.max_retries = max_retries
        self.retries = 0
        self.stopped = threading.Event()
        self._retry_delay = retry_delay
        self._not_before = 0.0
        self._counting = threading.Lock()
        self._secret = token or (get_token() if base_url is None else None)
        # The client would send the saved Hugging Face token to any endpoint; a header set to None is left out.
        headers: Any = {"authorization": None} if base_url is not None and token is None else None
        self._client = InferenceClient(
            base_url=base_url, provider=provider, token=token, timeout=timeout, headers=headers
        )
        self._where = base_url or f"Inference Providers ({provider or 'auto'})"
        self._instructions = instructions(rubric)
        # Said again at the end: a small model that reads a question last answers it.
        self._request = f"How difficult is it? {answer_form(rubric)}"
        temperature = None if temperature is None else float(temperature)
        # What is `None` is not sent.
        self._settings = {"model": model, "temperature": temperature, "max_tokens": max_tokens, "seed": seed}
        self._limit = f"max_tokens={max_tokens}"
        if max_completion_tokens is not None:
            self._limit = f"max_completion_tokens={max_completion_tokens}"
            # No argument of the client's, which takes what it does not know as `extra_body`.
            limit = {"max_completion_tokens": max_completion_tokens}
            self._settings |= {"max_tokens": None, "extra_body": limit}
        if json_schema:
            schema = {"name": "levels", "strict": True, "schema": answer_schema(rubric)}
            self._settings["response_format"] = {"type": "json_schema", "json_schema": schema}

    @property
    def recipe(self) -> dict:
        """What decides an answer beside the question: model, rubric and settings, wherever the model runs."""
        return {"settings": self._settings, "instructions": self._instructions, "request": self._request}

    def ask(self, question: str) -> Answer:
        """Puts one question and reads the answer; tries again where the server or the way to it fails.

        Raises:
            [`JudgeError`]: No question can be asked.
            [`NoAnswer`]: This one got no answer in `max_retries` further tries.
        """
        messages = [
            {"role": "system", "content": self._instructions},
            {"role": "user", "content": f"{question}\n\n{self._request}"},
        ]
        for attempt in range(self.max_retries + 1):
            self._wait()
            try:
                return self._read(self._complete(messages))
            # Nothing is raised from these errors: what they hold may show the token.
            except OfflineModeIsEnabled:
                raise JudgeError(
                    "HF_HUB_OFFLINE is set, and huggingface_hub then refuses every request, also to a server of your "
                    "own. Unset it for this run."
                ) from None
            except HfHubHTTPError as error:
                status = error.response.status_code
                said = self.redact(" ".join((error.server_message or error.response.reason_phrase).split())[:300])
                problem, after = f"{status} from {self._where}: {said}", error.response.headers.get("Retry-After")
                if status in REMEDIES:
                    raise JudgeError(f"{problem}. {REMEDIES[status]}") from None
                if status in (400, 422) and (refused := UNSUPPORTED.search(said)):
                    raise JudgeError(f"{problem}. {INSTEAD[refused[1].lower()]}") from None
                if status not in (408, 409, 429) and status < 500:
                    raise NoAnswer(problem) from None
                if status == 429:
                    self._hold(_seconds(after))
            except HTTPError as error:  # a time-out, or a connection that failed or broke
                problem, after = self.redact(f"{self._where}: {type(error).__name__}: {error}"), None
            except (json.JSONDecodeError, UnicodeDecodeError):
                problem, after = f"{self._where} broke off in the middle of its JSON, or sent none", None
            except ValueError as error:  # the client's own: no token, an unknown provider, …
                raise JudgeError(self.redact(f"The judge cannot be asked: {error}")) from None
            if attempt < self.max_retries:
                self.pause(attempt, problem, _seconds(after))
        raise NoAnswer(f"{problem}, {self.max_retries + 1} times")

    def pause(self, attempt: int, problem: str, at_least: float = 0.0) -> None:
        """Waits before a further try, ever longer, unless the run is stopped."""
        delay = min(self._retry_delay * 2**attempt, LONGEST_DELAY) * random.uniform(0.5, 1)
        delay = max(delay, at_least)
        with self._counting:
            self.retries += 1
            first = self.retries == 1
        if first:
            with tqdm.external_write_mode():  # on a line of its own, not behind the bar
                logger.warning(f"{problem}. Asking again in {delay:.1f} s; further retries are only counted.")
        if self.stopped.wait(delay):
            raise NoAnswer(f"{problem}; the run was stopped before it was asked again")

    def redact(self, text: str) -> str:
        """A text without the token, which some servers repeat."""
        return text.replace(self._secret, "[token]") if self._secret else text

    def _complete(self, messages: list[dict]) -> Any:
        """One request, to where the judge is and to nowhere else."""
        session = get_session()
        if _keep_here not in (hooks := session.event_hooks)["response"]:
            session.event_hooks = hooks | {"response": [*hooks["response"], _keep_here]}
        asking = _asking.set(True)
        try:
            return self._client.chat_completion(messages, **self._settings)
        finally:
            _asking.reset(asking)

    def _hold(self, seconds: float) -> None:
        """A rate limit is the account's, so every thread keeps to it."""
        with self._counting:
            self._not_before = max(self._not_before, time.monotonic() + seconds)

    def _wait(self) -> None:
        while (left := self._not_before - time.monotonic()) > 0:
            if self.stopped.wait(left):
                raise NoAnswer("the run was stopped before it was asked")

    def _read(self, completion: Any) -> Answer:
        usage = completion.usage
        tokens = {name: _count(getattr(usage, name, None)) for name in ("prompt_tokens", "completion_tokens")}
        choices = completion.choices
        if not isinstance(choices, list) or not choices:
            return Answer("unusable", reason="it holds no choices", **tokens)
        choice = choices[0]
        message = getattr(choice, "message", None)
        finish = getattr(choice, "finish_reason", None)
        # Some servers put all that a thinking model says into a channel of its own, its answer too.
        channels = [getattr(message, name, None) for name in ("content", "reasoning_content", "reasoning")]
        text = next((channel for channel in channels if isinstance(channel, str) and channel.strip()), "")
        text = self.redact(text)
        if refusal := getattr(message, "refusal", None):
            return Answer("refused", reason=self.redact(str(refusal)), text=text, **tokens)
        if finish == "content_filter":
            return Answer("refused", reason="the endpoint's content filter", text=text, **tokens)
        cut_off = Answer("cut off", reason=f"it was cut off at `{self._limit}`", text=text, **tokens)
        if finish == "length" and not channels[0]:  # a thought broken off, whatever levels it tried
            return cut_off
        try:
            return Answer("labelled", levels=read_levels(text, self.perspectives), text=text, **tokens)
        except UnusableAnswer as error:
            if finish == "length":
                return cut_off
            return Answer("unusable", reason=str(error), text=text, **tokens)


def _keep_here(response: Any) -> None:
    """Refuses redirects of questions; a response hook of huggingface_hub's shared client, which follows them.

    It would send the rows to whatever host the answer names. Nothing else that the client sends is touched.
    """
    if _asking.get() and response.request.method == "POST" and response.has_redirect_location:
        url = response.request.url.join(response.headers["Location"])
        raise JudgeError(
            f"{response.request.url.host} redirects to {url.scheme}://{url.netloc.decode()}{url.path}, and rows are "
            "sent to no address but the one you name. If you trust that one, pass it as `base_url` (without "
            "`/chat/completions`)."
        )


def _count(value: Any) -> int | None:
    return value if type(value) is int else None


def _seconds(after: str | None) -> float:
    """A `Retry-After` header: seconds, or a date."""
    if after is None:
        return 0.0
    try:
        return max(0.0, float(after))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(after).timestamp() - time.time())
    except ValueError:
        return 0.0
