"""Cases: requests that fail, answers that are lost, pushes that are overtaken or killed."""

import multiprocessing

from hub_kit import HUB, POOL, TENTH, make_pool, push, readme, refusal, rows, write
from huggingface_hub import DatasetCard

from diq_hf import select_subset, verify_subset
from diq_hf.publishing import commits


FAULTS = {
    "401": ({"request": "POST .*/preupload", "status": 401}, "hf auth login"),
    "403": ({"request": "POST .*/preupload", "status": 403}, "may write to"),
    "500 at the commit": ({"request": "POST .*/commit", "status": 500}, "500"),
    "500 at the card's check": ({"request": "POST .*/validate-yaml", "status": 500}, "500"),
    "409 for good": ({"request": "POST .*/commit", "status": 409, "times": 99}, "409"),
    "412 for good": ({"request": "POST .*/commit", "status": 412, "times": 99}, "412"),
    "dropped at the commit": ({"request": "POST .*/commit", "drop": True}, ""),
    "dropped at the first look": ({"request": "GET /api/datasets", "drop": True}, ""),
}
PASSED_OVER = {
    "409": {"request": "POST .*/commit", "status": 409, "times": 2},
    "412": {"request": "POST .*/commit", "status": 412, "times": 4},
    "upload refused": {"request": "PUT /lfs", "status": 500},
    "dropped in mid-upload": {"request": "PUT /lfs", "drop": True},
}


def case_faults_change_nothing_and_a_rerun_completes():
    commits.WAIT = 0.001
    push("me/faulty")
    old = TENTH.to_list()
    for number, (name, (fault, said)) in enumerate(FAULTS.items()):
        head, new = HUB.repos["me/faulty"].branches["main"], select_subset(POOL, num_rows=10 + number)
        HUB.fault(**fault)
        try:
            push("me/faulty", new)
        except Exception as error:
            message = str(error)
        else:
            raise AssertionError(f"{name}: no error")
        assert said in message, (name, message)
        HUB.faults.clear()
        assert HUB.repos["me/faulty"].branches["main"] == head, name
        assert rows("me/faulty") == old and not verify_subset("me/faulty")["diq_10pct"].problems, name
        push("me/faulty", new)
        old = new.to_list()
        assert rows("me/faulty") == old, name
    for number, (name, fault) in enumerate(PASSED_OVER.items()):
        new = select_subset(POOL, num_rows=30 + number)
        HUB.fault(**fault)
        push("me/faulty", new)
        assert not any(fault["times"] for fault in HUB.faults) and rows("me/faulty") == new.to_list(), name
        HUB.faults.clear()
    sent = [request for request in HUB.requests if "POST /api/datasets/me/faulty/commit" in request]
    assert len(sent) < 60  # "for good" ends


def case_wrong_or_no_token():
    push("me/guarded")
    for token, said in (("hf_of_you", "403"), ("hf_wrong", "401"), (False, "401")):
        head = HUB.repos["me/guarded"].branches["main"]
        message = refusal(push, "me/guarded", select_subset(POOL, num_rows=5), token=token)
        assert said in message and "Nothing was published" in message, message
        assert HUB.repos["me/guarded"].branches["main"] == head and rows("me/guarded") == TENTH.to_list()
    assert "401" in refusal(push, "me/new", token=False) and "me/new" not in HUB.repos


def case_answer_lost():
    """The commit is made but its answer is lost: the next push finds nothing left to do."""
    push("me/lost")
    new = select_subset(POOL, num_rows=9)
    HUB.fault("POST .*/commit", lose=True)
    try:
        push("me/lost", new)
    except Exception as error:
        assert type(error).__name__ == "RemoteProtocolError", error
    messages = list(HUB.repos["me/lost"].messages)
    assert len(messages) == 3 and rows("me/lost") == new.to_list()
    push("me/lost", new)
    assert HUB.repos["me/lost"].messages == messages


def case_somebody_commits_meanwhile():
    commits.WAIT = 0.001
    push("me/raced")
    card = DatasetCard(readme("me/raced"))
    card.text += "\nA sentence that came in between.\n"
    HUB.fault("POST .*/commit", call=lambda: write("me/raced", "README.md", str(card)))
    push("me/raced", select_subset(POOL, num_rows=9))
    assert HUB.repos["me/raced"].messages[-2:] == ["README.md", "diq_10pct: 9 rows, their card and recipe"]
    assert "A sentence that came in between." in readme("me/raced") and "9 of 60 rows" in readme("me/raced")
    assert not verify_subset("me/raced")["diq_10pct"].problems


def case_killed_at_every_request():
    push("me/killed")
    head, blobs = HUB.repos["me/killed"].branches["main"], dict(HUB.blobs)
    pool = make_pool(seed=2)
    new = select_subset(pool, num_rows=11)
    fork = multiprocessing.get_context("fork")
    killed = 0
    while True:
        HUB.blobs = dict(blobs)
        HUB.requests.clear()
        process = fork.Process(target=push, args=("me/killed", new), kwargs={"scored": pool})
        HUB.fault(skip=killed, kill=lambda: process.pid)  # noqa: B023 (armed for this process alone)
        process.start()
        process.join()
        HUB.faults.clear()
        if process.exitcode == 0:
            break
        assert process.exitcode == -9, process.exitcode
        killed += 1
        assert HUB.repos["me/killed"].branches["main"] == head
        if "PUT /lfs" in HUB.requests[-1] or "commit" in HUB.requests[-1]:
            assert rows("me/killed") == TENTH.to_list()
    assert killed >= 8 and any("commit" in request for request in HUB.requests), (killed, HUB.requests)
    assert rows("me/killed") == new.to_list() and not verify_subset("me/killed")["diq_10pct"].problems
