"""What clients send and get: OpenAI's chat completions, completions and models, as their clients write and read them.

Where a request does not follow it, the answer is a 4xx with OpenAI's error object, which names the field. An unknown field is
refused, as OpenAI does, since a misspelt `temperature` would otherwise change nothing and say nothing; a field of OpenAI's that
has no meaning here (`IGNORED`) is taken and not used. A field that is null is one that is left out. Beyond OpenAI's: `top_k`,
`min_p`, `repetition_penalty`, `ignore_eos` and `chat_template_kwargs`, named as vLLM names them.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi import HTTPException
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from openherd.core.config import nearest
from openherd.core.errors import OpenherdError

IGNORED = (
    "metadata", "parallel_tool_calls", "prompt_cache_key", "prompt_cache_retention", "reasoning_effort", "safety_identifier",
    "service_tier", "store", "user", "verbosity",
)  # fmt: skip
MOST_CHOICES = 128
MOST_STOPS = 16
MOST_TOP_LOGPROBS = 20
MOST_BIASES = 1_024
MOST_FIELDS = 64  # of an object that has fields of ours
DEEPEST = 64  # levels of an object inside a request

Text = Annotated[str, Field(max_length=1_024, min_length=1)]


class RequestError(HTTPException):
    """A request that is refused, as OpenAI's error object has it."""

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(status, message, headers)
        self.message, self.param, self.code = message, param, code

    @classmethod
    def of(cls, error: OpenherdError, param: str) -> "RequestError":
        """A 400 that says about a field what one of our errors says."""
        return cls(400, f"{param}: {error}", param)


def error_object(status: int, message: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """OpenAI's error object."""
    kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def refusal_of(errors: Sequence[Mapping[str, Any]], body: Any, known: Iterable[str]) -> RequestError:
    """What is said of a body that does not follow the protocol: the first of pydantic's errors, in a line. `known`: its fields."""
    first = errors[0]
    place, kind = [*first["loc"]], first["type"]
    if kind == "json_invalid":
        return RequestError(400, f"body: no JSON ({first['ctx']['error']} at character {place[-1]})")
    if place[:1] != ["body"]:
        return RequestError(400, f"{place[-1]}: {first['msg']}", str(place[-1]))
    if not isinstance(body, dict):
        return RequestError(400, "body: not a JSON object; send one, with the content type application/json")
    param = param_of(place[1:], body, kind)
    if kind == "of_field":
        param = f"{param}.{first['ctx']['field']}" if place[1:] else first["ctx"]["field"]
    given = first.get("input")
    shown = f" = {given!r}" if isinstance(given, bool | int | float | str) else ""
    shown = shown if len(shown) <= 48 else ""
    if kind == "extra_forbidden":
        hint = f"; {nearest(param, [*known, *IGNORED])}" if len(place) == 2 else ""
        return RequestError(400, f"{param}: an unknown field{hint}", param, "unknown_field")
    if kind == "missing":
        return RequestError(400, f"{param}: missing", param, "missing_required_parameter")
    allowed = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    message = f"{param}{shown}; allowed: {allowed}".encode("utf-8", "replace").decode()
    return RequestError(400, message, param, "invalid_value")


def param_of(place: Sequence[str | int], body: Any, kind: str) -> str:
    """A place as OpenAI writes it, `messages[0].content`; the names of a union's members, which are in no body, are left out."""
    param, value = "", body
    for i, part in enumerate(place):
        is_last = i == len(place) - 1
        if isinstance(part, int):
            param, value = f"{param}[{part}]", value[part] if isinstance(value, list) and part < len(value) else None
        elif (isinstance(value, dict) and part in value) or (is_last and kind in ("missing", "extra_forbidden")):
            param, value = f"{param}.{part}" if param else part, value.get(part) if isinstance(value, dict) else None
    return (param or "body").encode("utf-8", "replace").decode()


def of_field(field: str, allowed: str) -> PydanticCustomError:
    """An error of one field that another brings about."""
    return PydanticCustomError("of_field", "{allowed}", {"field": field, "allowed": allowed})


def shallow(value: Any) -> Any:
    """The value. Raises ValueError where it is nested too deeply."""
    level, values = 0, [value]
    while values:
        level += 1
        if level > DEEPEST:
            raise ValueError(f"at most {DEEPEST} levels of objects and lists")
        children = [v.values() if isinstance(v, dict) else v for v in values if isinstance(v, dict | list)]
        values = [child for group in children for child in group if isinstance(child, dict | list)]
    return value


def few_biases(value: Any) -> Any:
    """The value, of which not each entry is looked at where there are too many."""
    if isinstance(value, dict) and len(value) > MOST_BIASES:
        raise ValueError(f"at most {MOST_BIASES} tokens")
    return value


Object = Annotated[dict[str, Any], AfterValidator(shallow)]


class Request(BaseModel):
    """Part of a request."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        if isinstance(data, dict) and len(data) > MOST_FIELDS:
            raise ValueError(f"at most {MOST_FIELDS} fields")
        return {key: value for key, value in data.items() if value is not None} if isinstance(data, dict) else data


class StreamOptions(Request):
    """What a stream has beside the answer."""

    include_usage: bool = False
    include_obfuscation: bool = Field(default=False, description="taken and not used")


class TextPart(Request):
    """A part of a content. Images are not understood here yet."""

    type: Literal["text"]
    text: str


def as_text(content: Any) -> Any:
    """A part that is text, for parts that are plain texts."""
    return [content] if isinstance(content, str) else content


def kind_of(value: Any) -> str:
    """Which member of a union a value means to be, so that what is wrong with it is said of that one."""
    if not isinstance(value, list):
        return "object" if isinstance(value, dict | BaseModel) else "text"
    return {int: "ids", list: "lists"}.get(type(value[0]), "texts") if value else "texts"


Content = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[TextPart], Field(max_length=1_024, fail_fast=True), Tag("parts")],
    Discriminator(lambda value: "parts" if isinstance(value, list) else "text"),
]


class FunctionCall(Request):
    """A call that the assistant made."""

    model_config = ConfigDict(extra="ignore", strict=True)  # OpenAI's client adds what it parsed
    name: str = Field(max_length=256)
    arguments: str = Field("{}", description="a JSON object as text")


class Call(Request):
    """A call in a message."""

    model_config = ConfigDict(extra="ignore", strict=True)
    id: str = ""
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(Request):
    """A message. Fields that other servers put into their answers are passed over: answers can be sent back as they came."""

    model_config = ConfigDict(extra="ignore", strict=True)
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    tool_calls: list[Call] = Field([], max_length=MOST_CHOICES, fail_fast=True)
    tool_call_id: str = ""
    name: str = ""

    @model_validator(mode="after")
    def _has_content(self) -> "ChatMessage":
        if self.content is None and not (self.role == "assistant" and self.tool_calls):
            raise of_field("content", "a text, or calls by the assistant")
        return self


class Function(Request):
    """A function that the assistant may call."""

    name: str = Field(pattern=r"^[a-zA-Z0-9_.-]{1,256}$")
    description: str = ""
    parameters: Object = Field({}, description="a JSON schema")
    strict: bool = Field(False, description="taken and not used")


class Tool(Request):
    """A tool."""

    type: Literal["function"]
    function: Function


class NamedFunction(Request):
    """A function's name."""

    name: str


class ToolChoice(Request):
    """The tool to call."""

    type: Literal["function"]
    function: NamedFunction


class JsonSchema(Request):
    """A schema to keep to."""

    name: str = Field(max_length=256)
    description: str = ""
    schema_: Object = Field({}, alias="schema")
    strict: bool = Field(True, description="answers always keep to it")


class ResponseFormat(Request):
    """What an answer must be. Anything but text needs the extra `constrained`."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_schema(self) -> "ResponseFormat":
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise of_field("json_schema", 'with the type "json_schema", and with no other')
        return self


Stops = Annotated[
    list[Text],
    Field(max_length=MOST_STOPS, fail_fast=True),
    BeforeValidator(as_text, json_schema_input_type=Text | Annotated[list[Text], Field()]),
]
Bias = Annotated[float, Field(ge=-100, le=100)]
TokenId = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]


class Generation(Request):
    """What both kinds of completion can be asked for."""

    model: str = Field(max_length=256, description="a name that /v1/models lists")
    temperature: float = Field(1.0, ge=0, le=2, description="0 takes the likeliest token")
    top_p: float = Field(1.0, gt=0, le=1, description="choose among the fewest tokens that have this probability together")
    top_k: int = Field(0, ge=-1, le=2**31, description="choose among the k likeliest tokens; 0 or -1: all")
    min_p: float = Field(0.0, ge=0, le=1, description="choose among tokens with this share of the likeliest one's probability")
    repetition_penalty: float = Field(1.0, ge=0.01, le=100, description="over 1 makes tokens that were there unlikelier")
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    logit_bias: Annotated[dict[TokenId, Bias], BeforeValidator(few_biases)] = Field(
        {}, max_length=MOST_BIASES, description="token ids to what is added to their logits"
    )
    n: int = Field(1, ge=1, le=MOST_CHOICES, description="answers to each prompt")
    seed: int | None = Field(None, ge=-(2**63), lt=2**63, description="the same seed gives the same answer")
    stop: Stops = Field([], description="texts that end an answer and are no part of it")
    ignore_eos: bool = Field(False, description="go on behind the tokens that end a turn")
    stream: bool = False
    stream_options: StreamOptions = Field(default_factory=StreamOptions)

    @model_validator(mode="before")
    @classmethod
    def _without_ignored(cls, data: Any) -> Any:
        return {key: value for key, value in data.items() if key not in IGNORED} if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _streams(self) -> "Generation":
        if "stream_options" in self.model_fields_set and not self.stream:
            raise of_field("stream_options", "with stream = true alone")
        return self

    @property
    def biases(self) -> dict[int, float]:
        """`logit_bias` by token id."""
        return {int(token): bias for token, bias in self.logit_bias.items()}


class ChatRequest(Generation):
    """A request to answer a dialog."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=65_536, fail_fast=True)
    max_tokens: int | None = Field(None, ge=1, le=2**31, description="of an answer; as max_completion_tokens")
    max_completion_tokens: int | None = Field(None, ge=1, le=2**31)
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=MOST_TOP_LOGPROBS)
    tools: list[Tool] = Field([], max_length=MOST_CHOICES, fail_fast=True)
    tool_choice: Annotated[
        Annotated[Literal["none", "auto", "required"], Tag("text")] | Annotated[ToolChoice, Tag("object")], Discriminator(kind_of)
    ] = "auto"
    response_format: ResponseFormat | None = None
    modalities: list[Literal["text"]] = Field(["text"], max_length=1, fail_fast=True)
    chat_template_kwargs: Object = Field({}, description="tool_format, builtin_tools, date_string and the like")

    @model_validator(mode="after")
    def _goes_together(self) -> "ChatRequest":
        if self.top_logprobs and not self.logprobs:
            raise of_field("top_logprobs", "with logprobs = true alone")
        if self.tool_choice not in ("none", "auto") and not self.tools:
            raise of_field("tool_choice", "none or auto where there are no tools")
        return self

    @property
    def most_tokens(self) -> int | None:
        """Asked for each answer."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


Ids = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1, fail_fast=True)]
Prompt = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[list[str], Field(min_length=1, max_length=MOST_CHOICES, fail_fast=True), Tag("texts")]
    | Annotated[Ids, Tag("ids")]
    | Annotated[list[Ids], Field(max_length=MOST_CHOICES, fail_fast=True), Tag("lists")],
    Discriminator(kind_of),
]


class CompletionRequest(Generation):
    """A request to continue texts."""

    prompt: Prompt
    max_tokens: int = Field(16, ge=0, le=2**31, description="of an answer; 0 with echo alone makes sense")
    logprobs: int | None = Field(None, ge=0, le=MOST_TOP_LOGPROBS, description="of each token, and so many likely others")
    echo: bool = Field(False, description="put the prompt before the answer")
    best_of: int = Field(1, ge=1, le=1, description="1 alone")
    suffix: Literal[""] = Field("", description="nothing: no model here fills gaps")

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """A list of them."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        return [self.prompt] if isinstance(self.prompt[0], int) else self.prompt


class Response(BaseModel):
    """Part of an answer."""

    def json_bytes(self) -> bytes:
        """As it is sent: what was set, null or not."""
        return self.model_dump_json(exclude_unset=True).encode()


class Usage(Response):
    """Tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


class AnsweredFunction(Response):
    """The function of a call; its arguments are a JSON object as text, or a part of it in a stream."""

    name: str | None = None
    arguments: str


class AnsweredCall(Response):
    """A call of the answer; in a stream `index` says which, and its first part alone has the other fields and the name."""

    index: int | None = None
    id: str | None = None
    type: Literal["function"] | None = None
    function: AnsweredFunction


class LikelyToken(Response):
    """A token and its natural log-probability under the model, before temperature and cuts."""

    token: str
    logprob: float
    bytes: list[int]


class AnsweredToken(LikelyToken):
    """A token of the answer, and the likeliest in its place."""

    top_logprobs: list[LikelyToken]


class ChatLogprobs(Response):
    """Of each token of an answer."""

    content: list[AnsweredToken]
    refusal: None = None


class AnsweredMessage(Response):
    """The answer, or what it has got in a stream."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    tool_calls: list[AnsweredCall] | None = None
    refusal: None = None


class ChatChoice(Response):
    """One answer; in a stream `delta` stands for `message`."""

    index: int
    message: AnsweredMessage | None = None
    delta: AnsweredMessage | None = None
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None = None


class Chat(Response):
    """Answers to a dialog, or a piece of them."""

    id: str
    object: Literal["chat.completion", "chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage | None = None


class CompletionLogprobs(Response):
    """Of each token; None for a prompt's first, which follows nothing."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(Response):
    """One continuation, or a piece of it."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: FinishReason | None = None


class Completion(Response):
    """Continuations, or a piece of them."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


class Model(Response):
    """A model that can be asked for."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int = Field(description="its context, in tokens")


class ModelList(Response):
    """All of them."""

    object: Literal["list"]
    data: list[Model]


class ErrorDetail(Response):
    """What was wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(Response):
    """OpenAI's error object."""

    error: ErrorDetail
