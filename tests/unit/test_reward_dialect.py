"""What servers' errors mean, in the words of real ones, and that each thing is left out once."""

import json

import pytest

from rft.models.dialect import Dialect, cap_too_large, filtered, too_long
from rft.models.reply import Malformed, ServerSaid, Words, read, words

ASKED = [
    {"role": "system", "content": "s"},
    {"role": "system", "content": "p"},
    {"role": "user", "content": "q"},
]


@pytest.mark.parametrize(
    ("message", "status", "expected"),
    [
        (
            "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens.",
            400,
            True,
        ),
        ("prompt is too long: 210000 tokens > 200000 maximum", 400, True),
        ("The input token count (40000) exceeds the maximum number of tokens allowed (32768).", 400, True),
        ("`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4000 `inputs` tokens", 422, True),
        ("the request exceeds the available context size, try increasing it", 500, True),
        (
            (
                "'max_tokens' or 'max_completion_tokens' is too large: 1024. This model's maximum context"
                " length is 512"
            ),
            400,
            True,
        ),
        (
            (
                "Request too large for gpt in organization org on tokens per min (TPM): Limit 30000,"
                " Requested 45000"
            ),
            429,
            True,
        ),
        ("Rate limit exceeded: too many requests for these input tokens", 429, False),
        ("Upstream request timeout exceeded", 504, False),
        ("max_tokens is too large: 50000. This model supports at most 16384 completion tokens", 400, False),
        ("Unsupported value: 'temperature' does not support 0 with this model.", 400, False),
    ],
)
def test_a_prompt_that_is_too_long_is_told_from_other_errors(message, status, expected):
    assert too_long(Words(message), status) is expected
    assert cap_too_large(Words(message)) is ("max_tokens" in message)


def test_words_leave_out_what_an_error_quotes_of_the_request():
    quoted = {
        "detail": [
            {
                "loc": ["body", "seed"],
                "msg": "Extra inputs",
                "input": {"temperature": 0, "text": "context length"},
            }
        ]
    }
    said = words(json.dumps(quoted))
    assert "seed" in said.message and "temperature" not in said.message and not too_long(said, 422)
    dialect, sent = Dialect(lambda line: None), {"messages": ASKED, "temperature": 0, "seed": 1}
    assert dialect.learn(said, sent) and dialect.refused == {"seed"}
    assert words("<html>no</html>").message == "<html>no</html>" and words("").message == ""
    assert filtered(words('{"error": {"code": "content_filter", "message": "no"}}'))


def test_each_thing_is_learned_once_and_adapting_ends():
    lines = []
    dialect = Dialect(lines.append)
    for _ in range(10):
        body = dialect.body(ASKED, 64, temperature=0, seed=3)
        if not dialect.learn(
            Words("none of max_completion_tokens, max_tokens, temperature, seed is supported"), body
        ):
            break
    assert body == {"messages": ASKED} and dialect.cap is None and len(lines) == 4
    assert not dialect.learn(Words("seed is bad"), body)  # what was not sent is no reason
    assert dialect.learn(Words("System message must be at the beginning."), body)
    assert [m["content"] for m in dialect.body(ASKED)["messages"]] == ["s\n\np", "q"]
    assert dialect.learn(Words("System role not supported"), dialect.body(ASKED))
    assert dialect.body(ASKED)["messages"] == [{"role": "user", "content": "s\n\np\n\nq"}]
    assert not dialect.learn(Words("System role not supported"), dialect.body(ASKED))


@pytest.mark.parametrize(
    "body", ["", "null", "[]", "3", '{"choices": 3}', '{"choices": [{}]}', "data: {", "data: [DONE]"]
)
def test_what_is_no_answer_is_malformed(body):
    with pytest.raises(Malformed):
        read(body)


def test_an_error_in_place_of_an_answer_is_the_servers():
    with pytest.raises(ServerSaid, match="overloaded") as told:
        read('{"error": {"message": "overloaded", "code": 529}}')
    assert told.value.code == 529
