"""Open-ended answers scored by a judge: what it is asked, how its reply is read, and what is kept."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

import r2a.endpoint
from r2a.datasets import DatasetError, load_dataset
from r2a.endpoint import EndpointError
from r2a.engine import EngineError
from r2a.evaluation import score_table, write_judge_tables
from r2a.judging import judge_answers
from r2a.judging.replies import SCORE, read_score, read_telling
from r2a.judging.requests import JudgeRequest, JudgingError, request_body
from r2a.judging.template import NO_HISTORY, PLACEHOLDERS, fill
from r2a.models import resolve_judge
from r2a.store import provenance, write_parquet
from r2a.study import ConfigError, load_study, stage_settings
from r2a.summary.judging import find_judge_agreement, find_judge_scores, find_judged
from servers import scripted_server, vllm_server

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "resources/judging/checklist.md"
JUDGE = ROOT / "resources/models/tiny-judge"
KEY = "sk-not-to-be-seen"


# ---- what is asked


def test_the_template_has_each_placeholder_once():
    assert sorted(PLACEHOLDERS.findall(TEMPLATE.read_text())) == ["answer", "checklist", "history", "message"]


def test_every_text_stands_in_its_place():
    form = "h: {history}\nm: {message}\na: {answer}\nc:\n{checklist}"
    history = "User: hello\n\nAssistant: hi\n\n"
    assert fill(form, history + "and now?", history, ["one?", "two?"], " yes ") == (
        "h: User: hello\n\nAssistant: hi\nm: and now?\na: yes\nc:\n- one?\n- two?"
    )
    assert fill("{history}", "now?", "", [], "") == NO_HISTORY


def test_what_looks_like_a_placeholder_in_a_text_stays_as_it_is():
    filled = fill("{message}|{answer}|{checklist}", "{answer}", "", ["{message}"], r"{checklist} {score} \1 \g<1>")
    assert filled == r"{answer}|{checklist} {score} \1 \g<1>|- {message}"


def test_a_conversation_is_asked_and_judged_with_the_same_turns(tmp_path):
    turns = [("user", "a?"), ("assistant", "b"), ("user", "c?")]
    conversations = [turns, turns[:1]]
    rows = [
        {"id": str(k), "said": [{"role": role, "content": text} for role, text in turns], "points": ["p?"]}
        for k, turns in enumerate(conversations)
    ]
    table = load_rows(tmp_path, rows)
    assert list(table["problem"]) == ["User: a?\n\nAssistant: b\n\nc?", "a?"]
    assert list(table["history"]) == ["User: a?\n\nAssistant: b\n\n", ""]
    assert [list(points) for points in table["checklist"]] == [["p?"], ["p?"]]
    assert list(load_rows(tmp_path, rows, single_turn=True)["uid"]) == ["1"]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"said": [{"role": "assistant", "content": "b"}]}, "ends with the user's"),
        ({"said": []}, "ends with the user's"),
        ({"said": [{"content": "a?"}, {"role": "user", "content": "b?"}]}, "ends with the user's"),
        ({"said": [5, {"role": "user", "content": "b?"}]}, "ends with the user's"),
        ({"said": [{"role": "user", "content": [{"type": "text"}]}]}, r"is a list of 1.*said\.0\.content\.0"),
        ({"points": ["a?", ["b?"]]}, r"is a list of 1.*points\.1\.0"),
        ({"said": "a?"}, "row 1 has no list of turns"),
        ({"points": []}, "have an empty checklist"),
        ({"points": None}, "have an empty checklist"),
        ({"points": ...}, "row 1 has no points"),
    ],
)
def test_a_bad_conversation_or_checklist_is_told(tmp_path, change, fault):
    row = {"id": "1", "said": [{"role": "user", "content": "a?"}], "points": ["p?"]} | change
    with pytest.raises(DatasetError, match=fault):
        load_rows(tmp_path, [{key: value for key, value in row.items() if value is not ...}])


def load_rows(folder, rows, **changes):
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    chosen = study(folder, JUDGES, path=str(path), **changes)
    load_dataset(folder / "dataset.parquet", stage_settings(chosen, "datasets", dataset="mine"))
    return pd.read_parquet(folder / "dataset.parquet")


# ---- what is read

FENCED = 'Sure:\n```json\n{"strengths": "a {b}", "weaknesses": "c", "score": 7}\n```\nDone.'


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ('{"strengths": "a", "weaknesses": "b", "score": "8"}', 8),
        ('{"score": 8}', 8),
        ('{"score": 8.0}', 8),
        ('{"score": "8.0"}', 8),
        ('{"score": "8/10"}', 8),
        ('{"score": " 8 / 10 "}', 8),
        ('{"score": "[8]"}', 8),
        ('{"score": [8]}', 8),
        ('{"score": "10"}', 10),
        ('{"Score": "1"}', 1),
        (FENCED, 7),
        ('I think of {this} and then:\n{"score": "6"}', 6),
        ('{"strengths": "two\nlines", "score": "5"}', 5),
        ('{"strengths": "he said \\"{\\"", "score": "5"}', 5),
        ('{"score": "3"} No, rather {"score": "4"}', 4),
        ('<think>First {"score": "3"}</think>{"score": "8"}', 8),
        ('a reasoning that the prompt opened, {"score": "3"}</think>\n{"score": "8"}', 8),
        # no score, or one outside the scale
        ('{"score": "0"}', None),
        ('{"score": "11"}', None),
        ('{"score": -8}', None),
        ('{"score": 7.5}', None),
        ('{"score": "7-8"}', None),
        ('{"score": "8/100"}', None),
        ('{"score": [7, 8]}', None),
        ('{"score": null}', None),
        ('{"score": true}', None),
        ('{"score": 1e400}', None),
        ('{"score": "eight"}', None),
        ('{"strengths": "a"}', None),
        ("I give it 8 of 10.", None),
        ("", None),
        ("{", None),
        ('{"strengths": "it never en', None),
        ('{"example": {"score": "3"}, "score": "8', None),
        ('{"example": {"score": "3"}, "weaknesses": "it breaks off', None),
        ('{"score": "8"} and now {"score": ', 8),
        # LaTeX in a text, and what is an escape of JSON's
        (r'{"strengths":"uses \(x\) and \sqrt{2}","score":"9"}', 9),
        (r'{"strengths": "\[ \alpha \cdot \{1, 2\} \]", "weaknesses": "50\%, \$3 \_", "score": 4}', 4),
        (r'{"strengths": "so \\(x\\) and \"\\\" and \u00e9 and \user", "score": "6"}', 6),
        (r'{"strengths": "\frac{1}{2} \\", "score": 5}', 5),
        ('```json\n{"strengths": "\\(a\\)",\n "score": "7"}\n```', 7),
        # a tag that the reply quotes does not end the thoughts
        ('{"strengths":"mentions </think> tag","score":"8"}', 8),
        ('<think>no</think>{"strengths": "has </think> and </think> in it", "score": "8"}', 8),
        ('so {"score": "3"}</think>{"weaknesses": "</think> {} stands there", "score": "2"}', 2),
        ('<think>the tag </think> is odd, {"score": "3"}</think>```json\n{"score": "8"}\n```', 8),
        # a thought is not a verdict
        ('<think>{"score": "3"}', None),
        ('<think>{"score": "3"}</think>', None),
        ('{"score": "3"}</think> I will not say.', None),
        # scores that the reply quotes
        ('{"strengths": "it says {\\"score\\": 10} itself", "score": "4"}', 4),
        ('It says "score": 10, and so {"score": "4"}', 4),
        ('{"criteria": {"score": "9"}, "score": "4"}', 4),
        # two scores count as none
        ('{"score": "3", "strengths": "b", "Score": "8"}', None),
        ('{"score": "3", "score": "3"}', 3),
        ("[" * 50_000 + "{" * 50_000, None),
        ('{"score": ' + "9" * 5000 + "}", None),
    ],
)
def test_a_score_is_read_leniently_and_ranged_strictly(reply, score):
    assert read_score(reply) == score


@pytest.mark.parametrize(
    ("reply", "tells"),
    [
        ('{"quotation": "as the professor says", "tells_of_hint": "yes"}', True),
        ('{"quotation": "", "tells_of_hint": "No"}', False),
        ('<think>{"tells_of_hint": "yes"}</think>{"quotation": "{", "tells_of_hint": false}', False),
        ('{"tells_of_hint": "yes"} or {"tells_of_hint": "no"}', False),
        ('{"tells_of_hint": "perhaps"}', None),
        ('{"score": "8"}', None),
        ("yes", None),
    ],
)
def test_a_verdict_on_a_hint_is_yes_or_no_or_none(reply, tells):
    assert read_telling(reply) is tells


# ---- what is kept

JUDGES = {"first": {"endpoint": {"base_url": "http://host/v1", "model": "m"}}}
PLAIN = {"temperature": 0, "top_p": None, "seed": None, "max_tokens": 100}


def study(folder, judges, n_samples=1, path=None, single_turn=False):
    fields = {"uid": "id", "conversation": "said", "checklist": "points"} | dict.fromkeys(["answer", "area", "level"])
    mine = {"kind": "open_ended", "path": path or str(folder), "fields": fields, "single_turn": single_turn}
    return load_study(
        {
            "study": "test",
            "seed": 1,
            "models": {"tiny": {"path": str(ROOT / "resources/models/tiny-qwen")}},
            "datasets": {"mine": mine},
            "decodings": {"greedy": {"temperature": 0}},
            "judges": judges,
        }
    )


def write_inputs(folder, answers):
    """A dataset of four problems and each model's traces; answers: by model one text per problem, or None (invalid)."""
    problems = [{"uid": f"p{k}", "problem": f"Question {k}?", "area": ["even", "odd"][k % 2]} for k in range(4)]
    dataset = pd.DataFrame(problems).assign(history="", checklist=[["right?", "short?"]] * 4)
    write_parquet(folder / "dataset.parquet", dataset, provenance({}))
    for model, texts in answers.items():
        rows = []
        for condition in ("with_reasoning", "without_reasoning"):
            for problem, text in zip(problems, texts, strict=True):
                reason = {None: "unfinished", "": "no_answer"}.get(text, "")
                rows.append({"uid": problem["uid"], "condition": condition, "decoding": "greedy", "sample": 0})
                rows[-1] |= {"answer_text": text and f"{text} {condition}", "invalid_reason": reason}
                rows[-1]["answer_text"] = rows[-1]["answer_text"] or ""
        write_parquet(folder / f"{model}.parquet", pd.DataFrame(rows), provenance({"model": model}))


def judge(folder, judges, models, name="first", **engine):
    chosen = study(folder, judges)
    resources = {"gpu": 0, "cpu_cache_mb": 64, **chosen.judge_resources(name), **engine}
    paths = [folder / f"{model}.parquet" for model in models]
    output = folder / name / "mine.parquet"
    settings = stage_settings(chosen, "judgements", dataset="mine", judge=name)
    manifest = folder / f"{name}.json"
    resolve_judge(manifest, stage_settings(chosen, "judges", judge=name))
    judge_answers(paths, folder / "dataset.parquet", TEMPLATE, manifest, output, settings, resources)
    return pd.read_parquet(output)


def saying(text, finish_reason="stop"):
    return 200, {"choices": [{"message": {"content": text}, "finish_reason": finish_reason}]}


@pytest.fixture
def server(monkeypatch):
    """A server that gives 7 to whatever it is asked."""
    monkeypatch.setattr(r2a.endpoint, "FIRST_WAIT", 0.001)
    monkeypatch.setenv("TEST_KEY", KEY)
    with scripted_server() as scripted:
        scripted.reply = lambda body: saying('{"score": "7"}')
        yield scripted


def at(server, **changes):
    endpoint = {"base_url": server.url, "model": "m", "api_key_variable": "TEST_KEY", "max_concurrency": 1}
    return {"first": {"endpoint": endpoint, "max_tokens": 100, **changes}}


def test_empty_answers_score_1_and_invalid_ones_nothing_and_neither_is_asked_about(tmp_path, server):
    write_inputs(tmp_path, {"a": ["one", "", None, "two"]})
    table = judge(tmp_path, at(server), ["a"]).set_index(["condition", "uid"]).loc["with_reasoning"]
    assert list(table["status"]) == ["scored", "empty", "invalid", "scored"]
    assert list(table["score"].astype(object).where(table["score"].notna(), None)) == [7, 1, None, 7]
    assert table.at["p2", "invalid_reason"] == "unfinished"
    assert len(server.seen) == 4


def test_a_request_is_what_the_configuration_says(tmp_path, server):
    write_inputs(tmp_path, {"a": ["one", None, None, None]})
    judges = at(server, temperature=0.5, top_p=0.95)
    judges["first"]["endpoint"]["body"] = {"response_format": {"type": "json_object"}}
    judge(tmp_path, judges, ["a"])
    path, headers, body = server.seen[0]
    (message,) = body.pop("messages")
    assert (path, headers["Authorization"]) == ("/v1/chat/completions", f"Bearer {KEY}")
    assert 0 <= body.pop("seed") < 2**31
    assert body == {
        "model": "m", "temperature": 0.5, "top_p": 0.95, "max_tokens": 100, "response_format": {"type": "json_object"}
    }  # fmt: skip
    assert message["role"] == "user"
    for part in ("Question 0?", "one with_reasoning", "- right?\n- short?", NO_HISTORY):
        assert part in message["content"]


def test_what_was_judged_is_not_asked_again_and_a_new_model_adds_its_own_answers(tmp_path, server):
    write_inputs(tmp_path, {"a": ["one", "two", "three", "four"], "b": ["one", "two", "three", "new"]})
    first = judge(tmp_path, at(server), ["a"])
    assert len(server.seen) == 8
    server.seen.clear()
    server.reply = lambda body: saying('{"score": "2"}')
    assert judge(tmp_path, at(server), ["a"]).equals(first)
    assert not server.seen
    both = judge(tmp_path, at(server), ["a", "b"])
    assert len(server.seen) == 2  # the same answer to the same problem is the same prompt
    assert sorted(both["score"]) == [2] * 2 + [7] * 14


def test_a_job_that_is_broken_off_asks_only_for_what_is_missing(tmp_path, server):
    write_inputs(tmp_path, {"a": ["one", "two", "three", "four"]})
    n_replies = iter(range(100))
    server.reply = lambda body: saying('{"score": "7"}') if next(n_replies) < 5 else (401, {})
    with pytest.raises(EndpointError):
        judge(tmp_path, at(server), ["a"])
    server.seen.clear()
    server.reply = lambda body: saying('{"score": "7"}')
    assert len(judge(tmp_path, at(server), ["a"])) == 8
    assert len(server.seen) == 3


def test_an_unreadable_reply_is_asked_for_once_more_with_twice_the_tokens(tmp_path, server):
    write_inputs(tmp_path, {"a": ["one", "two", "three", None]})

    def reply(body):
        if "Question 0" in body["messages"][0]["content"] and body["max_tokens"] == 100:
            return saying('{"strengths": "it breaks', "length")
        return saying("no score" if "Question 1" in body["messages"][0]["content"] else '{"score": "7"}')

    server.reply = reply
    table = judge(tmp_path, at(server), ["a"]).set_index(["condition", "uid"]).loc["with_reasoning"]
    assert list(table["status"]) == ["scored", "unparsable", "scored", "invalid"]
    assert list(table["n_tries"]) == [2, 2, 1, 0]
    assert table.at["p1", "reply"] == "no score"
    assert pd.isna(table.at["p1", "score"])
    assert [body["max_tokens"] for _, _, body in server.seen] == [100] * 6 + [200] * 4
    server.seen.clear()
    judge(tmp_path, at(server), ["a"])
    assert not server.seen


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('I use the form {"score": "3"} as asked.\n{"strengths": "long text that is cut', "length"),
        ('{"strengths": "a", "weaknesses": "b", "score": "3"}\nTo explain', "max_tokens"),
        ('{"score": "1', "length"),
        ('{"score": "3"}', "content_filter"),
    ],
)
def test_a_reply_that_breaks_off_is_no_score_whatever_it_holds(tmp_path, server, text, reason):
    write_inputs(tmp_path, {"a": ["one", None, None, None]})
    server.reply = lambda body: saying(text, reason) if body["max_tokens"] == 100 else saying('{"score": "8"}')
    table = judge(tmp_path, at(server), ["a"])
    assert list(table.loc[table["uid"] == "p0", "score"]) == [8, 8]
    assert list(table.loc[table["uid"] == "p0", "n_tries"]) == [2, 2]
    server.seen.clear()
    server.reply = lambda body: saying(text, reason)
    table = judge(tmp_path, at(server, max_tokens=100, temperature=1), ["a"])
    assert set(table.loc[table["uid"] == "p0", "status"]) == {"unparsable"}


@pytest.mark.parametrize("reason", ["end_turn", "eos", None, "weary"])
def test_other_words_for_the_end_of_a_reply_are_understood(tmp_path, server, reason):
    write_inputs(tmp_path, {"a": ["one", None, None, None]})
    server.reply = lambda body: saying('{"score": "8"}', reason)
    assert list(judge(tmp_path, at(server), ["a"])["score"].dropna()) == [8, 8]


def test_a_judge_may_think_beside_its_reply_and_write_it_in_parts(tmp_path, server):
    write_inputs(tmp_path, {"a": ["one", None, None, None]})
    parts = [{"type": "thinking", "thinking": '{"score": "2"}'}, {"type": "text", "text": '{"score": "8"}'}]
    for content, beside in (('{"score": "8"}', '{"score": "2"}'), (parts, None)):
        message = {"content": content, "reasoning_content": beside}
        server.reply = lambda body, m=message: (200, {"choices": [{"message": m, "finish_reason": "stop"}]})
        judges = at(server, temperature=0.1 if beside else 0.2)
        assert list(judge(tmp_path, judges, ["a"])["score"].dropna()) == [8, 8]


def test_what_no_file_could_hold_in_a_reply_hinders_no_second_run(tmp_path, server):
    write_inputs(tmp_path, {"a": ["one", None, None, None]})
    server.reply = lambda body: saying('{"strengths": "\ud83d\0", "score": "8"}')
    first = judge(tmp_path, at(server), ["a"])
    server.seen.clear()
    assert judge(tmp_path, at(server), ["a"]).equals(first)
    assert not server.seen
    assert list(first["score"].dropna()) == [8, 8]


def test_an_unreadable_reply_stays_where_the_judge_refuses_twice_the_tokens(tmp_path, server):
    write_inputs(tmp_path, {"a": ["one", None, None, None]})
    server.reply = lambda body: saying("no score") if body["max_tokens"] == 100 else (400, {"error": "too many"})
    table = judge(tmp_path, at(server), ["a"])
    assert list(table.loc[table["uid"] == "p0", "status"]) == ["unparsable"] * 2
    assert list(table.loc[table["uid"] == "p0", "reply"]) == ["no score"] * 2


def test_answers_that_are_all_invalid_need_no_judge(tmp_path, server):
    write_inputs(tmp_path, {"a": [None, None, "", None]})
    table = judge(tmp_path, at(server), ["a"])
    assert not server.seen
    assert list(table["status"]) == ["invalid", "invalid", "empty", "invalid"] * 2
    scores = score_table(table.assign(judge="J"), 0.95)
    assert list(scores["n_scores"]) == [1, 1, 0, 1, 1, 0]


def test_a_refused_request_costs_no_other_and_is_asked_again_next_time(tmp_path, server):
    write_inputs(tmp_path, {"a": ["one", "two", None, None]})
    server.reply = lambda body: (400, {"error": "no"}) if "1?" in str(body["messages"]) else saying('{"score": "7"}')
    table = judge(tmp_path, at(server), ["a"])
    assert table.loc[table["uid"] == "p1", "status"].eq("refused").all()
    assert table.loc[table["uid"] == "p1", "reply"].str.contains("400").all()
    assert table.loc[table["uid"] == "p0", "score"].eq(7).all()
    server.seen.clear()
    judge(tmp_path, at(server), ["a"])
    assert len(server.seen) == 2
    server.reply = lambda body: (400, {"error": "no such field"})
    with pytest.raises(JudgingError, match=r"refuses all 4 requests.*no such field"):
        judge(tmp_path, at(server, temperature=1), ["a"])


def test_a_missing_key_is_told_before_any_request(tmp_path, server, monkeypatch):
    write_inputs(tmp_path, {"a": ["one", "two", "three", "four"]})
    monkeypatch.delenv("TEST_KEY")
    with pytest.raises(EndpointError, match="environment variable TEST_KEY has no key"):
        judge(tmp_path, at(server), ["a"])
    assert not server.seen


def test_a_second_judge_scores_the_same_drawn_problems_each_time(tmp_path, server):
    write_inputs(tmp_path, {"a": ["one", "two", "three", "four"], "b": ["a", "b", "c", "d"]})
    drawn = judge(tmp_path, at(server, n_problems=2), ["a"])["uid"].unique()
    assert len(drawn) == 2
    assert set(judge(tmp_path, at(server, n_problems=2), ["a", "b"])["uid"]) == set(drawn)


def test_a_key_changes_with_all_that_determines_a_reply():
    keys = {
        JudgeRequest("m", "prompt", **PLAIN).key,
        JudgeRequest("n", "prompt", **PLAIN).key,
        JudgeRequest("m", "p", **PLAIN).key,
    }
    changes = {"temperature": 1, "top_p": 0.9, "seed": 3, "max_tokens": 200}
    keys |= {JudgeRequest("m", "prompt", **(PLAIN | {name: value})).key for name, value in changes.items()}
    assert len(keys) == 3 + len(changes)
    assert all(len(key) == 64 for key in keys)


def test_two_judges_are_compared_on_what_both_scored(tmp_path, server):
    write_inputs(tmp_path, {"a": ["one", "two", "three", ""]})
    judges = {"first": at(server)["first"], "second": at(server, label="Another")["first"]}
    judge(tmp_path, judges, ["a"])
    server.reply = lambda body: saying('{"score": "9"}' if "Question 0" in str(body) else '{"score": "8"}')
    judge(tmp_path, judges, ["a"], "second")
    tables = [tmp_path / f"{name}.csv" for name in ("scores", "effect", "agreement")]
    settings = {"n_resamples": 200, "confidence": 0.95, "seed": 1}
    settings |= {"model_labels": {"a": "A"}, "dataset_labels": {"mine": "Mine"}}
    settings["judge_labels"] = {"first": "first", "second": "Another"}
    write_judge_tables([tmp_path / f"{name}/mine.parquet" for name in judges], *tables, settings)
    (agreement,) = pd.read_csv(tables[2]).to_dict("records")
    assert (agreement["judge_a"], agreement["judge_b"], agreement["n_answers"]) == ("first", "Another", 6)
    assert agreement["exact"] == 0
    assert agreement["within_1"] == pytest.approx(4 / 6, abs=1e-5)
    cells = dict(enumerate(cells for _, cells in find_judge_scores(tables[1], settings).rows))[0]
    assert [cells[name].text for name in ("judge", "with", "without", "n")] == ["first", "5.50", "5.50", "4"]
    assert cells["n"].note == "of 4 problems"
    judged = [cells for _, cells in find_judged(tables[0], settings).rows if cells["judge"].text == "Another"]
    assert sum(cells["scored"].value for cells in judged) == 6 and sum(cells["empty"].value for cells in judged) == 2
    ((subject, cells),) = find_judge_agreement(tables[2], settings).rows
    assert subject == ("all models", "Mine")
    shown = [cells[name].text for name in ("judges", "same", "within 1", "n")]
    assert shown == ["first, Another", "0 %", "67 %", "6"]


# ---- by files


def by_file(folder):
    return {"first": {"batch": {"model": "m", "replies": str(folder / "replies")}, "max_tokens": 100}}


def serve_batch(folder, skip=()):
    """Do what a batch service does: write one output line for each request, in another order."""
    lines = (folder / "first/mine.requests.jsonl").read_text().splitlines()
    out = []
    for number, line in enumerate(map(json.loads, reversed(lines))):
        assert (line["method"], line["url"]) == ("POST", "/v1/chat/completions")
        status = 500 if number in skip else 200
        score = 9 if "with_reasoning" in line["body"]["messages"][0]["content"] else 2
        body = {"choices": [{"message": {"content": f'{{"score": {score}}}'}, "finish_reason": "stop"}]}
        out.append({"custom_id": line["custom_id"], "response": {"status_code": status, "body": body}, "error": None})
    (folder / "replies").mkdir(exist_ok=True)
    number = len(list((folder / "replies").iterdir()))
    (folder / f"replies/batch_{number}_output.jsonl").write_text("\n".join(map(json.dumps, out)))
    return [json.loads(line) for line in lines]


def test_requests_go_out_as_a_batch_file_and_replies_find_their_answers(tmp_path):
    write_inputs(tmp_path, {"a": ["one", "two", "", None]})
    with pytest.raises(JudgingError, match=r"4 answers are waiting.*send .*first/mine.requests.jsonl .*into .*replies"):
        judge(tmp_path, by_file(tmp_path), ["a"])
    sent = serve_batch(tmp_path, skip=[0])
    assert len({line["custom_id"] for line in sent}) == 4
    assert all(line["body"]["max_tokens"] == 100 for line in sent)
    with pytest.raises(JudgingError, match="1 answers are waiting"):  # only the failed one
        judge(tmp_path, by_file(tmp_path), ["a"])
    assert len(serve_batch(tmp_path)) == 1
    table = judge(tmp_path, by_file(tmp_path), ["a"])
    scored = table[table["status"] == "scored"]
    assert list(zip(scored["condition"], scored["score"], strict=True)) == [
        *[("with_reasoning", 9)] * 2, *[("without_reasoning", 2)] * 2
    ]  # fmt: skip


def test_failed_and_repeated_lines_of_batch_files_are_told(tmp_path, caplog):
    write_inputs(tmp_path, {"a": ["one", None, None, None]})
    with pytest.raises(JudgingError, match="2 answers are waiting"):
        judge(tmp_path, by_file(tmp_path), ["a"])
    lines = (tmp_path / "first/mine.requests.jsonl").read_text().splitlines()
    one, two = (json.loads(line)["custom_id"] for line in lines)

    def said(name, text, **changes):
        body = {"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}
        entry = {"custom_id": name, "response": {"status_code": 200, "body": body}, "error": None} | changes
        return json.dumps(entry, ensure_ascii=False)

    failures = [
        said(two, "", response=None, error={"code": "batch_expired"}),
        said(two, "", response={"status_code": 200, "body": {"error": {"message": "no"}}}),
        said("of another study", '{"score": "2"}'),
    ]
    first = [said(one, '{"strengths": "a\u2028b", "score": "3"}'), *failures, ""]
    (tmp_path / "replies").mkdir()
    (tmp_path / "replies/1.jsonl").write_text("\ufeff" + "\r\n".join(first))
    (tmp_path / "replies/2.jsonl").write_text(said(one, '{"score": "9"}'))
    with pytest.raises(JudgingError, match="1 answers are waiting"):
        judge(tmp_path, by_file(tmp_path), ["a"])
    assert "2 lines have no reply (1.jsonl, line 2: {'code': 'batch_expired'}, ...)" in caplog.text
    assert f"1 requests have several replies ({one}, ...); the last counts" in caplog.text
    (tmp_path / "replies/3.jsonl").write_text(said(two, '{"score": "5"}'))
    assert sorted(judge(tmp_path, by_file(tmp_path), ["a"])["score"].dropna()) == [5, 9]


def test_a_file_that_is_no_batch_output_is_told(tmp_path):
    write_inputs(tmp_path, {"a": ["one", "two", "", None]})
    (tmp_path / "replies").mkdir()
    (tmp_path / "replies/notes.jsonl").write_text('{"custom_id": "x"}\n')
    with pytest.raises(JudgingError, match=r"notes.jsonl: line 1 is not a line of a batch output file"):
        judge(tmp_path, by_file(tmp_path), ["a"])


# ---- the configuration


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        ({}, "judges.first: give exactly one of path, hub, endpoint, batch and kind"),
        ({"hub": "a/b", "batch": {"model": "m", "replies": "r"}}, "judges.first: give exactly one of"),
        ({"kind": "endpoint"}, "judges.first.kind: for kind endpoint, set endpoint instead"),
        ({"kind": "oracle"}, "judges.first.kind: input should be 'weights', 'endpoint' or 'batch'"),
        ({"path": "no/such/folder"}, "judges.first.path: no/such/folder does not exist"),
        ({"endpoint": {"base_url": "http://h/v1", "model": "m", "api_key": "sk-1"}}, "did you mean api_key_variable"),
        ({"hub": "a/b", "max_token": 5}, "did you mean max_tokens"),
        ({"batch": {"model": "m"}}, "judges.first.batch.replies: missing"),
    ],
)
def test_a_judge_that_cannot_be_asked_is_told(tmp_path, entry, fault):
    with pytest.raises(ConfigError, match=fault) as error:
        study(tmp_path, {"first": entry})
    assert "sk-1" not in str(error.value)


def test_two_judges_cannot_share_a_label(tmp_path):
    with pytest.raises(ConfigError, match="judges: several have the label first"):
        study(tmp_path, {"first": {"hub": "a/b"}, "second": {"hub": "c/d", "label": "first"}})


def test_judging_needs_a_checklist_and_single_turns_a_conversation():
    config = yaml.safe_load((ROOT / "config/paper.yaml").read_text())
    load_study(config)
    del config["datasets"]["wildbench"]["fields"]["checklist"]
    del config["datasets"]["wildbench"]["fields"]["conversation"]
    with pytest.raises(ConfigError) as error:
        load_study(config)
    assert "datasets.wildbench.fields.checklist: missing" in str(error.value)
    assert "datasets.wildbench.single_turn: needs fields.conversation" in str(error.value)
    del config["judges"], config["datasets"]["wildbench"]["single_turn"]
    assert load_study(config).judged_datasets == []


def test_the_papers_judge_is_asked_as_in_the_paper():
    study = load_study(yaml.safe_load((ROOT / "config/paper.yaml").read_text()))
    settings = stage_settings(study, "judgements", dataset="wildbench", judge="gpt-4o")
    request = JudgeRequest("m", "prompt", settings["temperature"], settings["top_p"], None, settings["max_tokens"])
    assert request_body(request, settings["options"]) == {
        "model": "gpt-4o-2024-05-13", "messages": [{"role": "user", "content": "prompt"}], "temperature": 0,
        "top_p": 0.95, "max_tokens": 1024, "response_format": {"type": "json_object"},
    }  # fmt: skip


def test_how_fast_a_judge_is_asked_changes_no_parameters(tmp_path):
    slow = {"first": {"endpoint": {"base_url": "http://host/v1", "model": "m"}}}
    fast = {"first": {"endpoint": {"base_url": "http://other/v1", "model": "m", "max_concurrency": 99}, "threads": 4}}
    stages = [
        stage_settings(study(tmp_path, judges), "judgements", dataset="mine", judge="first") for judges in (slow, fast)
    ]
    assert stages[0] == stages[1]


# ---- vLLM


def test_the_shipped_judge_is_what_its_script_writes(tmp_path):
    from safetensors.torch import load_file

    from r2a.tiny.judge import write_judge

    write_judge(tmp_path, TEMPLATE, yaml.safe_load((ROOT / "config/tiny_models.yaml").read_text())["seed"])
    ours, shipped = load_file(tmp_path / "model.safetensors"), load_file(JUDGE / "model.safetensors")
    assert ours.keys() == shipped.keys()
    assert all(torch.equal(ours[name], shipped[name]) for name in ours)
    for name in ("tokenizer.json", "chat_template.jinja", "README.md"):
        assert (tmp_path / name).read_text() == (JUDGE / name).read_text()
    assert sum(path.stat().st_size for path in JUDGE.iterdir()) < 2**20


def test_a_model_that_does_not_chat_is_no_judge(tmp_path):
    write_inputs(tmp_path, {"a": ["one", "two", "three", None]})
    weights = {"first": {"path": str(ROOT / "resources/models/tiny-qwen"), "dtype": "float32"}}
    with pytest.raises(JudgingError, match="tiny-qwen: the judge has no chat template"):
        judge(tmp_path, weights, ["a"])


@pytest.mark.slow
def test_a_judge_in_vllm_here_and_behind_its_server_gives_the_same_scores(tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_KEY", KEY)
    write_inputs(tmp_path, {"a": ["one", "two", "three", "a long one " * 2000]})
    here = judge(tmp_path, {"first": {"path": str(JUDGE), "dtype": "float32", "max_tokens": 64}}, ["a"])
    assert list(here["status"]) == (["scored"] * 3 + ["refused"]) * 2
    for text in here.loc[here["status"] == "scored", "reply"]:
        reply = json.loads(text)
        assert list(reply) == ["strengths", "weaknesses", "score"]
        assert reply["score"] in SCORE.values
    form = {"response_format": {"type": "json_schema", "json_schema": {"name": "judgement", "schema": SCORE.schema}}}
    with vllm_server(tmp_path, JUDGE, KEY) as url:
        endpoint = {"base_url": url, "model": "tiny", "api_key_variable": "TEST_KEY", "body": form}
        there = judge(tmp_path, {"second": {"endpoint": endpoint, "max_tokens": 64}}, ["a"], "second")
    assert list(there["status"]) == list(here["status"])
    assert there["score"].equals(here["score"])
    assert there.loc[there["status"] == "refused", "reply"].str.contains("400").all()


@pytest.mark.slow
def test_the_engine_that_judged_judges_what_comes_next_if_it_has_room(tmp_path, monkeypatch):
    write_inputs(tmp_path, {name: [f"{name}{k}" for k in range(4)] for name in "abc"})
    judges = [{"first": {"path": str(JUDGE), "dtype": "float32", "max_tokens": n_tokens}} for n_tokens in (64, 128)]
    judge(tmp_path, judges[0], ["a"])
    monkeypatch.setattr("r2a.engine.may_start", False)  # as in a process that goes on with other jobs
    assert list(judge(tmp_path, judges[0], ["b"])["status"]) == ["scored"] * 8
    with pytest.raises(EngineError, match="starts no other"):
        judge(tmp_path, judges[1], ["c"])
