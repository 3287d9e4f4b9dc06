"""Traces from an OpenAI-compatible endpoint: against a scripted server, and against vLLM's own."""

import json
import shutil
import threading
from concurrent.futures import wait
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import r2a.endpoint
from generated import generate_all
from r2a.datasets import load_dataset
from r2a.endpoint import Endpoint, EndpointError, RefusedError, as_they_finish
from r2a.endpoint_replies import ReplyError, is_finished
from r2a.generation.endpoint_engine import read_reply, request_body
from r2a.generation.requests import NEUTRAL, CompletionRequest
from r2a.models import resolve_model
from r2a.study import ConfigError, load_study, stage_settings
from servers import scripted_server, vllm_server

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "resources/models/tiny-qwen"
KEY = "sk-not-to-be-seen"
PATIENCE = 300  # seconds for an answer; a request that is given up for a busy machine would be seen twice
ANSWER = {"choices": [{"text": "so</think>\n\\boxed{3}", "finish_reason": "stop"}]}


@pytest.fixture
def server(monkeypatch):
    """A server whose `reply` a test sets; `seen` has its requests. Waits between tries are cut short."""
    monkeypatch.setattr(r2a.endpoint, "FIRST_WAIT", 0.001)
    monkeypatch.setenv("TEST_KEY", KEY)
    with scripted_server() as scripted:
        scripted.reply = lambda body: (200, ANSWER)
        yield scripted


def in_turn(*replies):
    left = iter(replies)
    return lambda body: next(left)


# ---- one request


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
def test_a_busy_server_is_asked_again(server, status):
    server.reply = in_turn((status, {"error": "busy"}), (status, {}), (200, ANSWER))
    with Endpoint(server.url, "TEST_KEY", PATIENCE) as endpoint:
        assert endpoint.post("completions", {"model": "m"}) == ANSWER
    assert [path for path, _, _ in server.seen] == ["/v1/completions"] * 3
    assert all(headers["Authorization"] == f"Bearer {KEY}" for _, headers, _ in server.seen)


def test_a_server_that_stays_busy_is_given_up(server):
    server.reply = lambda body: (503, {"error": f"overloaded, {KEY}"})
    with (
        Endpoint(server.url, "TEST_KEY", PATIENCE) as endpoint,
        pytest.raises(EndpointError, match=r"503.*run again") as error,
    ):
        endpoint.post("completions", {})
    assert len(server.seen) == r2a.endpoint.N_TRIES
    assert KEY not in str(error.value)


def test_a_server_that_is_not_there_is_told(server):
    server.shutdown()
    server.server_close()
    with Endpoint(server.url, "", PATIENCE) as endpoint, pytest.raises(EndpointError, match="ConnectError"):
        endpoint.post("completions", {})


@pytest.mark.parametrize(("status", "kind"), [(400, RefusedError), (401, EndpointError), (404, EndpointError)])
def test_a_fault_of_ours_is_not_sent_again_and_shows_no_key(server, status, kind):
    server.reply = lambda body: (status, {"error": f"bad key {KEY}"})
    with Endpoint(server.url, "TEST_KEY", PATIENCE) as endpoint, pytest.raises(kind, match=str(status)) as error:
        endpoint.post("completions", {})
    assert len(server.seen) == 1
    assert KEY not in str(error.value)
    assert isinstance(error.value, RefusedError) == (status == 400)


def test_a_missing_key_is_told_before_any_request(server, monkeypatch):
    monkeypatch.delenv("TEST_KEY")
    with pytest.raises(EndpointError, match="environment variable TEST_KEY has no key"):
        Endpoint(server.url, "TEST_KEY", PATIENCE)


def test_when_one_fails_what_is_under_way_is_still_handed_over(monkeypatch):
    both_started, is_noticed, waits = threading.Barrier(2), threading.Event(), []

    def noted_wait(futures, **options):
        waits.append(len(futures))
        if len(waits) == 2:  # after the failure, as the other one cannot end before
            is_noticed.set()
        return wait(futures, **options)

    def work(task):
        if task < 2:
            both_started.wait()
        if task == 0:
            raise ValueError("broken")
        is_noticed.wait()
        return task

    monkeypatch.setattr(r2a.endpoint, "wait", noted_wait)

    finished = []
    with pytest.raises(ValueError, match="broken"):
        finished.extend(result for _, result in as_they_finish(work, range(100), 2) if not finished.append(result))
    assert set(finished) == {1}


def reply_to(server, *replies, body=None):
    server.reply = in_turn(*replies)
    with Endpoint(server.url, "TEST_KEY", PATIENCE) as endpoint:
        return endpoint.post("completions", body or {"model": "m"})


HTML = b"<!DOCTYPE html>\n<title>502 Bad Gateway</title>"
STREAM = b'data: {"choices": [{"delta": {"content": "so"}}]}\n\ndata: [DONE]\n'
NO_COMPLETIONS = [
    # what arrives, and what the message says
    ({"choices": None, "error": {"code": 429, "message": "slow down"}}, "slow down"),
    ({"error": {"code": "502", "message": "upstream is gone"}}, "upstream is gone"),
    ({"error": "overloaded"}, "overloaded"),
    ({"choices": [{"error": {"code": 503, "message": "provider failed"}, "text": ""}]}, "provider failed"),
    ({"choices": []}, "without a completion"),
    ({"object": "error", "message": "not now"}, "not now"),
    ([1, 2], "without a completion"),
    (b"null", "without a completion"),
    (b"", "an empty reply"),
    (b"  \n", "an empty reply"),
    (HTML, "no JSON: <!DOCTYPE html> <title>502 Bad Gateway"),
    (STREAM, "a stream .take stream out of body"),
    (b'{"choices": [{"text": "it br', "no JSON"),
    (b"\xff\xfe\x00", "no JSON"),
    (b"[" * 100_000, "no JSON"),
]


@pytest.mark.parametrize(("content", "said"), NO_COMPLETIONS)
@pytest.mark.parametrize("status", [200, 202])
def test_what_is_no_completion_under_a_status_of_success_is_asked_for_again_and_then_told(
    server, monkeypatch, status, content, said
):
    assert reply_to(server, (status, content), (status, content), (200, ANSWER)) == ANSWER
    monkeypatch.setattr(r2a.endpoint, "N_TRIES", 2)
    with pytest.raises(EndpointError, match=rf"{server.url}/completions: no success in 2 tries.*{status} .*{said}"):
        reply_to(server, (status, content), (status, content))


@pytest.mark.parametrize(("code", "kind"), [(400, RefusedError), (422, RefusedError), (401, EndpointError)])
def test_an_error_under_a_status_of_success_is_what_its_code_says(server, code, kind):
    with pytest.raises(kind, match="too long") as error:
        reply_to(server, (200, {"error": {"code": code, "message": "too long"}}))
    assert isinstance(error.value, RefusedError) == (kind is RefusedError)
    assert len(server.seen) == 1


def test_a_reply_of_any_bytes_is_read(server):
    raw = b'\xef\xbb\xbf {"choices": [{"text": "a\xff\tb", "finish_reason": "stop"}]}'
    assert reply_to(server, (200, raw))["choices"][0]["text"] == "a\ufffd\tb"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ({"Retry-After": "2"}, 2),
        ({"Retry-After": "120.5"}, 120.5),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({"Retry-After": "soon"}, 0),
        ({"Retry-After": "nan"}, 0),
        ({"Retry-After": "-5"}, 0),
    ],
)
def test_the_server_says_how_long_to_wait(server, monkeypatch, header, seconds):
    waited = []
    monkeypatch.setattr(r2a.endpoint, "time", SimpleNamespace(sleep=waited.append))
    reply_to(server, (429, {}, header), (200, ANSWER))
    assert waited == [pytest.approx(seconds, abs=0.01)]


def test_a_server_that_asks_to_wait_for_hours_is_given_up(server):
    with pytest.raises(EndpointError, match="asks for a pause of 7200 seconds; run again after that"):
        reply_to(server, (429, {"error": "quota"}, {"Retry-After": "7200"}))


@pytest.mark.parametrize(
    ("said", "fields"),
    [
        ("Unrecognized request argument supplied: top_k", "top_k: null"),
        ("property 'min_p' is unsupported", "min_p: null"),
        ("Extra inputs are not permitted: body.top_k, body.min_p", "top_k: null, min_p: null"),
    ],
)
def test_a_field_that_a_server_does_not_know_is_told_with_the_way_to_leave_it_out(server, said, fields):
    body = {"model": "m", "prompt": "p", "top_k": -1, "min_p": 0}
    with pytest.raises(RefusedError, match=rf"to leave a field out, give the endpoint body: \{{{fields}\}}"):
        reply_to(server, (400, {"error": said}), body=body)
    with pytest.raises(RefusedError) as error:
        reply_to(server, (400, {"error": "top_k of 50 and 600 tokens are too many for the context"}), body=body)
    assert "leave a field out" not in str(error.value)


@pytest.mark.parametrize("key", ["schlüssel", "sk-1\nsk-2", "Bearer sk-1", "sk-1\tsk-2", "sk-\u200b1"])
def test_a_key_that_no_header_holds_is_told_and_not_shown(server, monkeypatch, key):
    monkeypatch.setenv("TEST_KEY", key)
    with pytest.raises(EndpointError, match="the key in TEST_KEY has spaces, line ends or characters that") as error:
        Endpoint(server.url, "TEST_KEY", PATIENCE)
    assert "sk-" not in str(error.value) and "schl" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:1", "socksio"),
        ("HTTP_PROXY", "gopher://127.0.0.1:1", "proxy"),
        ("SSL_CERT_FILE", "/nowhere.pem", "No such file"),
    ],
)
def test_a_connection_that_the_environment_prevents_is_told_with_what_to_correct(
    server, monkeypatch, name, value, said
):
    monkeypatch.setenv(name, value)
    with pytest.raises(
        EndpointError, match=rf"no connection can be made \(.*{said}.*\); correct ALL_PROXY, .* in the env"
    ):
        Endpoint(server.url, "", PATIENCE)


# ---- what is sent and read

REQUEST = CompletionRequest("p1", "with_reasoning", "greedy", 0, 7, (), "3?", "<think>\n", 0.6, None, 50, "m")
SETTINGS = {"model": "owner/name", "kind": "completions", "body": {}, "prefill": {}}


def test_a_text_prompt_is_the_papers_and_every_sampling_parameter_is_stated():
    path, body = request_body(REQUEST, SETTINGS | {"body": {"top_k": 5, "min_p": None, "seed": None}})
    expected = {"model": "owner/name", "prompt": "3? <think>\n", "temperature": 0.6, "max_tokens": 50}
    neutral = {"repetition_penalty": 1, "presence_penalty": 0, "frequency_penalty": 0}
    assert (path, body) == ("completions", expected | neutral | {"top_k": 5})
    _, untouched = request_body(replace(REQUEST, top_p=1.0, prompt_ids=(5, 6)), SETTINGS)
    assert {"top_p": 1, "top_k": -1, "min_p": 0, "seed": 7, "prompt": [5, 6], "return_token_ids": True}.items() <= (
        untouched.items()
    )


def test_a_chat_opens_the_reasoning_in_a_message_of_its_own():
    path, body = request_body(REQUEST, SETTINGS | {"kind": "chat", "prefill": {"prefix": True}})
    assert path == "chat/completions"
    assert body["messages"] == [
        {"role": "user", "content": "3?"},
        {"role": "assistant", "content": "<think>\n", "prefix": True},
    ]


OPEN, CLOSED = "<think>\n", "<think>\nOkay.\n</think>"


@pytest.mark.parametrize(
    ("message", "prefill", "text"),
    [
        ({"content": "so</think>3"}, OPEN, "so</think>3"),
        ({"content": "3", "reasoning_content": "so"}, OPEN, "so</think>3"),
        ({"content": None, "reasoning": "so it never"}, OPEN, "so it never"),
        ({"content": None, "reasoning": "it is 3"}, CLOSED, "it is 3"),
        ({"content": None}, OPEN, ""),
        ({"content": None, "refusal": "I won't"}, OPEN, "I won't"),
        # the prompt's opening, or the thoughts, are repeated
        ({"content": "<think>\nso</think>3"}, OPEN, "so</think>3"),
        ({"content": "<think>\nOkay.\n</think>\n3"}, CLOSED, "\n3"),
        ({"content": "so</think>3", "reasoning": "so"}, OPEN, "so</think>3"),
        # closed beforehand, but the model has thought again
        ({"content": "3", "reasoning_content": "no"}, CLOSED, "no</think>3"),
        ({"content": "<think>no</think>3"}, CLOSED, "<think>no</think>3"),
        # content as parts, thoughts as parts
        ({"content": [{"type": "text", "text": "so</think>"}, {"type": "text", "text": "3"}]}, OPEN, "so</think>3"),
        ({"content": [{"type": "thinking", "thinking": "so"}, {"type": "text", "text": "3"}]}, OPEN, "so</think>3"),
        (
            {
                "content": [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "so"}]},
                    {"type": "text", "text": "3"},
                ]
            },
            OPEN,
            "so</think>3",
        ),
        ({"content": ["3", {"type": "output_text", "text": "4"}]}, OPEN, "34"),
        ({"content": {"type": "text", "text": "3"}}, OPEN, "3"),
        ({"content": "3", "reasoning_details": [{"type": "reasoning.text", "text": "so"}]}, OPEN, "so</think>3"),
        ({"content": [{"type": "redacted_thinking", "data": "x"}, {"type": "text", "text": "3"}]}, OPEN, "3"),
        # what no file can hold
        ({"content": "\ud83d \\boxed{1}\0"}, OPEN, "\ufffd \\boxed{1}\ufffd"),
        ({"content": "\ud83d\ude42 ok"}, OPEN, "\U0001f642 ok"),
        ({"content": "3", "reasoning": "\udc00"}, OPEN, "\ufffd</think>3"),
    ],
)
def test_the_text_is_what_the_model_wrote_wherever_the_server_puts_it(message, prefill, text):
    request = replace(REQUEST, prefill=prefill)
    assert read_reply({"choices": [{"message": message, "finish_reason": "stop"}]}, request, 0.1).text == text


@pytest.mark.parametrize(
    "reply",
    [
        {"error": "what?"},
        {"choices": [{"finish_reason": "stop"}]},
        {"choices": [{"message": "3"}]},
        {"choices": [{"text": 3}]},
        {"choices": [{"delta": {"content": "3"}}]},
        {"choices": [{"text": "3"}, {"text": "4"}]},
        {"choices": [{"message": {"content": [{"type": "image_url", "image_url": "x"}]}}]},
        {"choices": [{"message": {"content": [{"type": "tool_use", "text": "x"}]}}]},
        {"choices": [{"text": "3", "token_ids": 5}]},
        {"choices": [{"text": "3", "token_ids": ["5", "6"]}]},
        {"choices": [{"text": "3", "token_ids": [5.0, 6.5]}]},
        {"choices": [{"text": "3", "token_ids": [5, -1]}]},
        {"choices": [{"text": "3", "token_ids": {"5": 6}}]},
        {"choices": [{"text": "3", "token_ids": [5], "prompt_token_ids": [True]}]},
    ],
)
def test_a_reply_that_is_no_completion_is_told(reply):
    with pytest.raises(ReplyError, match=r"not a completion|not text"):
        read_reply(reply, REQUEST, 0.1)


@pytest.mark.parametrize(
    ("word", "n_tokens", "reason"),
    [
        *[(word, 5, "stop") for word in ("stop", "STOP", "eos", "eos_token", "end", "end_turn", "stop_sequence")],
        *[(word, 50, "length") for word in ("length", "max_tokens", "MAX_TOKENS", "FINISH_REASON_MAX_TOKENS")],
        (None, 5, "stop"),
        (None, None, "stop"),
        (None, 50, "length"),
        ("", 5, "stop"),
        ("stop", 50, "stop"),
        ("content_filter", 5, "content_filter"),
        ("tool_calls", 5, "tool_calls"),
        ("abort", 5, "abort"),
        ("weary", 5, "weary"),
        ("weary", 50, "length"),
        (3, 5, "3"),
    ],
)
def test_servers_words_for_the_end_are_understood(word, n_tokens, reason):
    reply = {"choices": [{"text": "3", "finish_reason": word}], "usage": {"completion_tokens": n_tokens}}
    assert read_reply(reply, REQUEST, 0.1).finish_reason == reason
    assert is_finished(reason) == (reason in ("stop", "weary", "3"))


def test_a_reply_without_a_word_for_its_end_has_ended():
    assert read_reply({"choices": [{"text": "3"}]}, REQUEST, 0.1).finish_reason == "stop"


# ---- whole traces


def study(folder, model, max_new_tokens=40, decodings=None):
    rows = [{"uid": f"p{k}", "problem": f"What is {k}?", "answer": str(k)} for k in range(4)]
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    fields = {"area": None, "level": None}
    return load_study(
        {
            "study": "test",
            "seed": 1,
            "models": {"served": model},
            "datasets": {"mine": {"kind": "problems", "path": str(folder / "data.jsonl"), "fields": fields}},
            "decodings": decodings or {"greedy": {"temperature": 0}},
            "generation": {"max_new_tokens": max_new_tokens},
        }
    )


def generate(folder, chosen):
    paths = [folder / name for name in ("dataset.parquet", "model.json")]
    load_dataset(paths[0], stage_settings(chosen, "datasets", dataset="mine"))
    resolve_model(paths[1], stage_settings(chosen, "models", "served"))
    engine = chosen.endpoint_resources("served") | {"gpu": 0, "gpu_memory_percent": 90, "cpu_cache_mb": 64}
    return generate_all(chosen, "served", "mine", *paths, folder, engine)


def served(url, **changes):
    return {"endpoint": {"base_url": url, "model": "tiny", "api_key_variable": "TEST_KEY", **changes}}


def test_a_model_without_weights_gives_traces_of_text(tmp_path, server):
    table = generate(tmp_path, study(tmp_path, served(server.url)))
    with_reasoning, without = (part for _, part in table.groupby("condition"))
    assert set(with_reasoning["answer_text"]) == {"\n\\boxed{3}"}
    assert with_reasoning["is_valid"].all()
    assert set(without["invalid_reason"]) == {"closed_twice"}  # the prompt closed it, and so did the completion
    assert list(table["prompt_text"][:1]) == ["What is 0? <think>\n"]
    assert table["bounds"].isna().all()


def test_a_model_that_thinks_anew_closes_its_reasoning_twice(tmp_path, server):
    message = {"reasoning_content": "maybe \\boxed{7}. no.", "content": "\\boxed{1}"}
    server.reply = lambda body: (200, {"choices": [{"message": message, "finish_reason": "stop"}]})
    table = generate(tmp_path, study(tmp_path, served(server.url, kind="chat") | {"prompt": "chat"}))
    with_reasoning, without = (part for _, part in table.groupby("condition"))
    assert set(with_reasoning["answer_text"]) == {"\\boxed{1}"} and with_reasoning["is_valid"].all()
    assert set(without["invalid_reason"]) == {"closed_twice"}


def test_an_unknown_word_for_the_end_is_told_once_and_counted_and_costs_no_trace(tmp_path, server, caplog):
    caplog.set_level("INFO", "r2a")
    server.reply = lambda body: (200, {"choices": [{"text": "so</think>\\boxed{3}", "finish_reason": "weary"}]})
    table = generate(tmp_path, study(tmp_path, served(server.url)))
    assert table.loc[table["condition"] == "with_reasoning", "is_valid"].all()
    assert set(table["finish_reason"]) == {"weary"}
    lines = [record.message for record in caplog.records if "weary" in record.message]
    assert len(lines) == 4, "one line at the first, one at the end, of each condition's job"
    assert lines[1] == lines[3] == "4 completions end for 'weary', which is taken for stop"


def test_a_reply_that_cannot_be_read_costs_no_other(tmp_path, server):
    image = {"choices": [{"text": None, "message": {"content": [{"type": "image_url"}]}, "finish_reason": "stop"}]}
    server.reply = lambda body: (200, image) if "2?" in body["prompt"] else (200, ANSWER)
    table = generate(tmp_path, study(tmp_path, served(server.url)))
    assert set(table.loc[table["finish_reason"] == "refused", "uid"]) == {"p2"}


@pytest.mark.parametrize("text", ["\ud800", "\0", "\ud83d\\boxed{1}\0\x1b", "\ufeff\u2028\x85"])
def test_no_text_of_a_reply_hinders_a_second_run(tmp_path, server, text):
    server.reply = lambda body: (200, {"choices": [{"text": f"{text}</think>{text}", "finish_reason": text}]})
    chosen = study(tmp_path, served(server.url))
    first = generate(tmp_path, chosen)
    server.seen.clear()
    assert generate(tmp_path, chosen)["completion_text"].equals(first["completion_text"])
    assert not server.seen


def test_a_refused_prompt_costs_no_other(tmp_path, server):
    server.reply = lambda body: (400, {"error": "too long"}) if "2?" in body["prompt"] else (200, ANSWER)
    table = generate(tmp_path, study(tmp_path, served(server.url)))
    refused = table[table["finish_reason"] == "refused"]
    assert set(refused["uid"]) == {"p2"}
    assert set(refused["invalid_reason"]) == {"unfinished"}
    assert len(table[table["finish_reason"] == "stop"]) == 6


def test_requests_that_are_all_refused_stop_the_job(tmp_path, server):
    server.reply = lambda body: (400, {"error": "no such field"})
    with pytest.raises(EndpointError, match=r"all 4 requests are refused.*no such field"):
        generate(tmp_path, study(tmp_path, served(server.url)))


def test_a_job_that_is_broken_off_asks_only_for_what_is_missing(tmp_path, server):
    n_answers = iter(range(100))
    server.reply = lambda body: (200, ANSWER) if next(n_answers) < 5 else (401, {})
    chosen = study(tmp_path, served(server.url, max_concurrency=1))
    with pytest.raises(EndpointError):
        generate(tmp_path, chosen)
    server.seen.clear()
    server.reply = lambda body: (200, ANSWER)
    elsewhere = served(server.url.replace("127.0.0.1", "localhost"), max_concurrency=2)
    assert len(generate(tmp_path, study(tmp_path, elsewhere))) == 8
    assert len(server.seen) == 3


def test_the_key_is_nowhere_on_disk(tmp_path, server):
    generate(tmp_path, study(tmp_path, served(server.url)))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 5
    assert not any(KEY.encode() in path.read_bytes() for path in files)


def test_a_server_without_token_ids_cannot_serve_a_model_with_weights(tmp_path, server):
    model = {"path": str(MODEL), "dtype": "float32", **served(server.url)}
    with pytest.raises(EndpointError, match="returns no token ids"):
        generate(tmp_path, study(tmp_path, model))


def test_a_prompt_too_long_for_the_model_costs_no_other(tmp_path, server):
    reply = {"choices": [{"text": "", "finish_reason": "stop", "token_ids": [5, 1]}]}
    server.reply = lambda body: (200, reply)
    chosen = study(tmp_path, {"path": str(MODEL), "dtype": "float32", **served(server.url)})
    long = {"uid": "long", "problem": "east " * 600, "answer": "1"}
    with open(tmp_path / "data.jsonl", "a") as file:
        file.write("\n" + json.dumps(long))
    table = generate(tmp_path, chosen)
    assert set(table.loc[table["uid"] == "long", "finish_reason"]) == {"prompt_too_long"}
    assert len(table[table["finish_reason"] == "stop"]) == 8
    assert len(server.seen) == 8


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        ({}, "give exactly one of path"),
        ({"path": str(MODEL), "endpoint": {"kind": "chat"}}, "use completions"),
        ({"endpoint": {"kind": "chat"}}, "prompt chat with chat"),
        ({"prompt": "chat", "endpoint": {}}, "prompt chat with chat"),
        ({"endpoint": {"base_url": "https://me:secret@host/v1"}}, "endpoint.base_url"),
        ({"endpoint": {"api_key": "sk-123"}}, "did you mean api_key_variable"),
    ],
)
def test_what_does_not_fit_an_endpoint_is_told(tmp_path, entry, fault):
    if "endpoint" in entry:
        entry["endpoint"] = {"base_url": "http://host/v1", "model": "m", **entry["endpoint"]}
    with pytest.raises(ConfigError, match=fault) as error:
        study(tmp_path, entry)
    assert "sk-123" not in str(error.value)


# ---- vLLM's server

TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{{ ' ' if m['role'] == 'user' }}{% endfor %}"


@pytest.fixture(scope="module")
def penalized(tmp_path_factory):
    """A tiny model whose generation config asks servers to sample differently from the study."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    shutil.copytree(MODEL, folder)
    path = folder / "generation_config.json"
    own = {"repetition_penalty": 1.5, "top_k": 3, "min_p": 0.2, "temperature": 0.3, "max_new_tokens": 4}
    path.write_text(json.dumps(json.loads(path.read_text()) | own))
    return folder


@pytest.fixture(scope="module")
def vllm_url(tmp_path_factory, penalized):
    """A real vLLM server with the penalized model, on a free port of this machine."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "template.jinja").write_text(TEMPLATE)
    with vllm_server(folder, penalized, KEY, "--chat-template", str(folder / "template.jinja")) as url:
        yield url


@pytest.fixture
def with_key(monkeypatch):
    monkeypatch.setenv("TEST_KEY", KEY)


BOTH = {"greedy": {"temperature": 0}, "sampled": {"temperature": 0.6, "n_samples": 2}}


@pytest.mark.slow
def test_the_servers_tokens_are_those_of_the_engine_here_whatever_its_defaults(tmp_path, vllm_url, penalized, with_key):
    weights = {"path": str(penalized), "dtype": "float32"}
    tables = []
    untold = served(vllm_url, body=dict.fromkeys(NEUTRAL))  # null leaves a field out
    models = {"here": weights, "there": weights | served(vllm_url), "untold": weights | untold}
    for name, model in models.items():
        (tmp_path / name).mkdir()
        tables.append(generate(tmp_path / name, study(tmp_path / name, model, decodings=BOTH)))
    here, there, by_its_defaults = tables
    for column in ("prompt_token_ids", "completion_token_ids", "bounds"):
        assert [list(value) for value in here[column]] == [list(value) for value in there[column]], column
    assert list(here["finish_reason"]) == list(there["finish_reason"])
    assert len(here) == 4 * 2 * 3
    greedy = [table.loc[table["decoding"] == "greedy", "completion_text"] for table in (here, by_its_defaults)]
    assert (greedy[0] != greedy[1]).any()  # so its defaults would count


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["completions", "chat"])
def test_text_and_chat_traces_of_the_server_keep_text_and_tokens(tmp_path, vllm_url, with_key, kind):
    body = {"return_token_ids": True, "skip_special_tokens": False}
    if kind == "chat":
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    model = served(vllm_url, kind=kind, body=body) | {"prompt": "chat" if kind == "chat" else "raw"}
    table = generate(tmp_path, study(tmp_path, model))
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    for row in table.itertuples():
        assert tokenizer.decode(row.prompt_token_ids).removeprefix(tokenizer.bos_token) == row.prompt_text
        text = tokenizer.decode(row.completion_token_ids).removesuffix(tokenizer.eos_token)
        assert text.rstrip("\ufffd") == row.completion_text.rstrip("\ufffd")  # the server holds half a character back
    stub = "<think>\nOkay, I think I have finished thinking.\n</think>"
    assert table.loc[table["condition"] == "without_reasoning", "prompt_text"].str.endswith(stub).all()


@pytest.mark.slow
def test_a_wrong_key_and_a_wrong_name_are_told_by_the_server(tmp_path, vllm_url, monkeypatch):
    monkeypatch.setenv("TEST_KEY", "wrong")
    with pytest.raises(EndpointError, match=r"401.*is the key in TEST_KEY right"):
        generate(tmp_path, study(tmp_path, served(vllm_url)))
    monkeypatch.setenv("TEST_KEY", KEY)
    with pytest.raises(EndpointError, match=r"404.*check base_url and model"):
        generate(tmp_path, study(tmp_path, served(vllm_url, model="unknown")))
