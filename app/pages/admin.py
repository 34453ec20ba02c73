"""Administration: progress, links, export; results once a study is closed. Needs the token."""

from __future__ import annotations

import hmac
import html
import io
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Literal, cast
from urllib.parse import quote, urlsplit

import pandas as pd
import streamlit as st

from app import common, state
from percept import stats
from percept.design import passes
from percept.errors import PerceptError
from percept.store import Study
from percept.study import (
    export_study,
    invite_observers,
    may_look,
    protocol_of,
    session_length,
)

Format = Literal["csv", "parquet", "json"]
STATES = {
    "open": "Open: observers can join and answer.",
    "paused": "Paused: nobody can join; observers who began can finish.",
    "closed": "Closed: nobody can join or answer.",
}
TIME = "D MMM YYYY, HH:mm"
STEPS = {"open": ("pause", "close"), "paused": ("open", "close"), "closed": ("reopen",)}
LEADS_TO: dict[str, Literal["open", "paused", "closed"]] = {
    "open": "open",
    "reopen": "open",
    "pause": "paused",
    "close": "closed",
}


def admit() -> None:
    """Stop here unless the visitor holds the token; take it out of the address if so."""
    token = os.environ.get("PERCEPT_ADMIN_TOKEN", "")
    given = st.query_params.get("token", "")
    if given:
        st.session_state.admin_token = given
        del st.query_params["token"]
    given = st.session_state.get("admin_token", "")
    if token and hmac.compare_digest(given.encode(), token.encode()):
        return
    common.kicker("Administration")
    st.title("This page needs its token")
    st.write("Open the link that `percept app` printed, or enter the token.")
    with st.form("token", border=False):
        entered = st.text_input("Token", type="password")
        if st.form_submit_button("Continue", type="primary") and entered:
            st.session_state.admin_token = entered
            st.rerun()
    if given:
        st.error("That is not the token.")
    st.stop()


def choose() -> Study:
    """Choose one of the studies."""
    studies = {study.name: study for study in state.store().studies()}
    if not studies:
        st.title("There is no study yet")
        st.write("`percept study create` makes one.")
        st.stop()
    if len(studies) == 1:
        return next(iter(studies.values()))
    return studies[st.selectbox("Study", list(studies), width=420)]


@st.fragment(run_every=5)
def progress(study: Study) -> None:
    """How far it is: counts alone, nothing that says who wins."""
    now = state.store().progress(study)
    if now.simulated:
        st.html(
            f'<p class="percept-banner"><strong>Simulated.</strong> {now.simulated} of '
            f"{now.observers} observers are simulated; no person gave their answers.</p>"
        )
    seconds = now.median_response_time_ms
    figures = {
        "Observers": f"{now.observers}",
        "Sessions complete": f"{now.finished} of {now.sessions}",
        "Trials answered": f"{now.rated_trials} of {now.trials}",
        "Answering now": f"{now.active}",
        "Median time": "–" if seconds is None else f"{seconds / 1000:.1f} s",
    }
    for column, (label, value) in zip(st.columns(len(figures)), figures.items(), strict=True):
        column.metric(label, value)
    groups = ", ".join(f"{group} {count}" for group, count in now.by_group.items())
    latest = "" if now.last_rating_at is None else f"{now.last_rating_at:%d %B %Y, %H:%M:%S} UTC"
    right = sum(n for answer, n in now.golds.items() if passes(*answer))
    golds = f"{right} of {sum(now.golds.values())}" if now.golds else ""
    rows = {
        "Groups": groups,
        "Screened out": str(now.screened_out),
        "Withdrawn": str(now.withdrawn),
        "Skipped": str(now.skips),
        "Golds answered as expected": golds,
        "Repeats answered alike": f"{now.repeats_alike} of {now.repeats}" if now.repeats else "",
        **identical_pairs(study),
        "Last answer": latest,
    }
    table("".join(row(label, text or "–") for label, text in rows.items()))

    pairs = "left" in now.by_unit
    st.header("Votes for each pair" if pairs else "Trials for each condition")
    if now.by_unit.empty:
        st.write("No test trial was answered yet.")
        return
    names = ["left", "right"] if pairs else ["condition"]
    most = int(now.by_unit["trials"].max())
    table(
        "".join(
            row(
                " and ".join(str(record[name]) for name in names),
                bar(record["trials"] / most) + str(record["trials"]),
                markup=True,
            )
            for record in now.by_unit.to_dict("records")
        )
    )


def table(rows: str) -> None:
    """Write a quiet table of two columns."""
    st.html(f'<table class="percept-table">{rows}</table>')


def row(label: str, text: str, *, markup: bool = False) -> str:
    """Make one row of :func:`table`; ``text`` is HTML if ``markup``."""
    return f"<tr><th>{html.escape(label)}</th><td>{text if markup else html.escape(text)}</td></tr>"


def bar(share: float) -> str:
    """Draw a bar of that share of the column, as HTML."""
    return f'<span class="percept-bar" style="width:{60 * share:.1f}%"></span>'


def people(study: Study) -> None:
    """List every session, the newest first, and who should be looked at."""
    frame = state.store().sessions(study)
    if frame.empty:
        return
    with st.expander(f"Sessions ({len(frame)})"):
        times = median_times(study)
        shown = frame.iloc[::-1].assign(
            progress=lambda each: [
                f"{done} of {total}"
                for done, total in zip(each.rated_trials, each.trials, strict=True)
            ],
            seconds=lambda each: each["session"].map(times),
        )
        columns = ["observer", "group", "simulated", "progress", "seconds"]
        st.dataframe(
            shown[[*columns, "started_at", "finished_at"]],
            hide_index=True,
            column_config={
                "seconds": st.column_config.NumberColumn("median time (s)", format="%.1f"),
                "started_at": st.column_config.DatetimeColumn("began", format=TIME),
                "finished_at": st.column_config.DatetimeColumn("finished", format=TIME),
            },
        )
    with st.expander("Observers to look at"):
        st.write(
            "Controls, times and patterns of every attribute. A flag is a reason to look, and "
            "removes nothing: what is left out is decided, with its reason, in the analysis."
        )
        found = flagged(study)
        if found is None:
            st.write("Answers of this method are not screened.")
        elif found.empty:
            st.write("Nobody is flagged.")
        else:
            st.dataframe(found, hide_index=True)


@st.cache_data(ttl=20, max_entries=16, show_spinner=False)
def answers_of(study_name: str) -> pd.DataFrame:
    """All answers of a study, read at most every 20 seconds for all administrators together."""
    return state.store().ratings(study_name)


def identical_pairs(study: Study) -> dict[str, str]:
    """How often an image beside itself was told to be no better and no worse."""
    ratings = answers_of(study.name)
    if "choice" not in ratings or not protocol_of(study).tie:
        return {}
    asked = last_answers(ratings, "identical")
    asked = asked[asked["choice"] != "skip"]
    told = f"{int((asked['choice'] == 'tie').sum())} of {len(asked)}" if len(asked) else ""
    return {"Identical pairs called equal": told}


def last_answers(ratings: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Get the answers that count of one kind of trials."""
    of_kind = ratings[ratings["kind"] == kind].sort_values("revision")
    return of_kind.drop_duplicates(["trial", "attribute"], keep="last")


def median_times(study: Study) -> dict[int, float]:
    """Seconds that each session takes for an answer, by its key."""
    ratings = answers_of(study.name).drop_duplicates("response_id")
    medians = ratings.groupby("session")["response_time_ms"].median() / 1000
    return dict(zip(medians.index.tolist(), medians.tolist(), strict=True))


def flagged(study: Study) -> pd.DataFrame | None:
    """Observers that the screening rules would exclude, with reasons; None: no rules apply."""
    ratings = answers_of(study.name)
    if study.method not in ("pairwise", "rating", "real_or_fake"):
        return None
    found = []
    for attribute, frame in ratings.groupby("attribute"):
        verdicts = stats.screen_observers(frame)
        verdicts = verdicts[verdicts["verdict"] == "exclude"].assign(attribute=attribute)
        found.append(verdicts[["observer", "attribute", "reason", "n"]])
    if not found:
        return pd.DataFrame()
    return pd.concat(found).rename(columns={"n": "answers"})


def address_of(study: Study) -> str:
    """Get the link for observers, as this page was reached."""
    here = urlsplit(st.context.url or "")
    folder = here.path.removesuffix("/").removesuffix("/admin").removesuffix("admin")
    return f"{here.scheme}://{here.netloc}{folder.rstrip('/')}/?study={quote(study.name)}"


def links(study: Study) -> None:
    """Show what to send to observers, and make invitations."""
    protocol = protocol_of(study)
    base = address_of(study)
    st.header("Link for observers")
    if protocol.invite_only:
        st.write("This study takes invited observers alone: send them links of invitations.")
    else:
        st.code(base, language=None)
        groups = protocol.groups
        if len(groups) > 1:
            named = " or ".join(f"`&group={group}`" for group in groups)
            st.write(f"Observers say which group they belong to, or the link says it: add {named}.")
    with st.expander("Invitations", expanded=protocol.invite_only):
        invitations(study, base)


def invitations(study: Study, base: str) -> None:
    """List invitations with their links; make one, revoke one."""
    groups = protocol_of(study).groups
    with st.form(f"invite-{study.name}", clear_on_submit=True, border=False):
        columns = st.columns([3, 2, 1], vertical_alignment="bottom")
        label = columns[0].text_input("For whom", max_chars=200)
        group = columns[1].selectbox("Group", [None, *groups], format_func=lambda g: g or "any")
        uses = columns[2].number_input("Uses", 1, 100_000, 1)
        if st.form_submit_button("Make an invitation"):
            try:
                invite_observers(state.store(), study, label, group=group, max_uses=int(uses))
            except PerceptError as error:
                st.error(str(error))
    made = state.store().invites(study)
    if made.empty:
        return
    shown = made.assign(
        link=[f"{base}&invite={quote(code)}" for code in made["code"]],
        used=[
            f"{used}" if pd.isna(most) else f"{used} of {most}"
            for used, most in zip(made["uses"], made["max_uses"], strict=True)
        ],
        state=["revoked" if pd.notna(at) else "valid" for at in made["revoked_at"]],
    )
    st.dataframe(shown[["label", "group", "used", "state", "link"]], hide_index=True)
    valid = shown[shown["state"] == "valid"]
    if not valid.empty:
        with st.container(horizontal=True, vertical_alignment="bottom"):
            labels = dict(zip(valid["code"].tolist(), valid["label"].tolist(), strict=True))
            code: str = st.selectbox("Revoke", list(labels), format_func=lambda one: labels[one])
            if st.button("Revoke it", key=f"revoke-{study.name}"):
                state.store().revoke_invite(study, code)
                st.rerun()


def control(study: Study) -> None:
    """Pause, close and reopen."""
    st.header("State")
    st.write(STATES[study.state])
    with st.container(horizontal=True):
        for step in STEPS[study.state]:
            if st.button(f"{step.capitalize()} the study", key=f"step-{step}-{study.name}"):
                state.store().set_state(study.name, LEADS_TO[step])
                st.rerun()


def export(study: Study) -> None:
    """Hand out all tables as one archive."""
    st.header("Export")
    st.write("Every answer with its time, kind of trial and what was shown, observers, events.")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        kind = st.radio(
            "Format", ["csv", "parquet", "json"], horizontal=True, format_func=str.upper
        )
        st.download_button(
            "Download",
            data=lambda: archive(study, cast(Format, kind)),
            file_name=f"{study.name}-{kind}.zip",
            mime="application/zip",
            on_click="ignore",
        )


def archive(study: Study, kind: Format) -> bytes:
    """Make the archive, and log that an unfinished study was looked into."""
    store = state.store()
    if study.state != "closed":
        store.look(study, "export")
    buffer = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        files = export_study(store, study, Path(folder) / study.name, kind)
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in files:
                archive.write(file, f"{study.name}/{file.name}")
    return buffer.getvalue()


def results(study: Study) -> None:
    """Agreement and ranking: once closed, or under the stopping rule; every look is logged."""
    st.header("Results")
    if not may_look(state.store(), study):
        rule = protocol_of(study).stopping
        early = [
            *([f"every comparison has {rule.votes} votes"] if rule.votes else []),
            *([f"no interval is wider than ±{rule.half_width:g} JOD"] if rule.half_width else []),
        ]
        st.write(
            "Agreement and ranking are shown once the study is closed"
            + (f", or, by its protocol, once {' and '.join(early)}" if early else "")
            + ": who watches a live ranking is tempted to stop when it pleases."
        )
        return
    logged = f"logged-{study.name}"
    if not st.toggle("Show the results (this is logged)", key=f"results-{study.name}"):
        st.session_state.pop(logged, None)
        return
    if logged not in st.session_state:
        state.store().look(study, "results" if study.state == "closed" else "results, open")
        st.session_state[logged] = True
    ratings = state.store().ratings(study)
    show = {
        "pairwise": preferences,
        "artifact": artifacts,
        "rating": opinions,
        "real_or_fake": taken_for_real,
        "review": verdicts,
    }[study.method]
    for attribute in protocol_of(study).attributes:
        st.subheader(attribute.question)
        frame = ratings[ratings["attribute"] == attribute.name]
        try:
            show(frame)
        except PerceptError as error:
            st.write(f"Not estimable: {error}")
    looks = state.store().looks(study)
    st.html(
        f'<p class="percept-note">Looks so far: {len(looks)}, exports before closing '
        "included. The full analysis is <code>percept report</code>.</p>"
    )


def shares(frame: pd.DataFrame, hit: pd.Series[bool], label: str) -> None:
    """Show how often something happened in each condition; intervals take votes as independent."""
    rows = []
    for name, own in hit.groupby(frame["condition"]):
        low, high = stats.proportion_interval(int(own.sum()), len(own))
        rows.append((name, len(own), 100 * own.mean(), 100 * low, 100 * high))
    st.dataframe(
        pd.DataFrame(rows, columns=["condition", "trials", label, "low", "high"]),
        hide_index=True,
        column_config={
            name: st.column_config.NumberColumn(format="%.0f %%") for name in (label, "low", "high")
        },
    )
    st.caption("Intervals of 95 % take votes as independent; the report does not.")


def taken_for_real(frame: pd.DataFrame) -> None:
    """How often a colouring was taken for the true photograph."""
    frame = last_answers(frame, "test")
    frame = frame[frame["choice"].isin(["left", "right"])]
    on_left = frame["left"] != "reference"
    frame = frame.assign(condition=frame["left"].where(on_left, frame["right"]))
    shares(frame, frame["choice"] != frame["expected"], "taken for real")


def verdicts(frame: pd.DataFrame) -> None:
    """How often a colouring was accepted as it is."""
    frame = last_answers(frame, "test")
    frame = frame[frame["verdict"].isin(["accept", "fix", "reject"])]
    shares(frame, frame["verdict"] == "accept", "accepted")


def opinions(frame: pd.DataFrame) -> None:
    """Mean opinion score of each condition, and how far observers agree."""
    frame = last_answers(frame, "test")
    frame = frame[frame["score"].notna()].astype({"score": float})
    table = frame.pivot_table(index="observer", columns="condition", values="score")
    scores = stats.mos(table.to_numpy())
    units = frame.pivot_table(index="observer", columns=["content", "condition"], values="score")
    alpha = stats.krippendorff_alpha(units.to_numpy(), "ordinal")
    st.dataframe(
        pd.DataFrame(
            {
                "condition": table.columns,
                "observers": scores.n,
                "mean score": scores.score,
                "low": scores.low,
                "high": scores.high,
            }
        ),
        hide_index=True,
        column_config={
            name: st.column_config.NumberColumn(format="%.2f")
            for name in ("mean score", "low", "high")
        },
    )
    agreement = f"{alpha.value:.2f}" if alpha.estimable else "not estimable"
    st.write(f"Krippendorff's alpha (ordinal): {agreement}.")


def preferences(frame: pd.DataFrame) -> None:
    """Strengths of the conditions, and how far observers agree."""
    scale = stats.bradley_terry(frame)
    alpha = stats.pairwise_alpha(frame)
    order = sorted(range(len(scale.items)), key=lambda i: scale.rank_low[i] + scale.rank_high[i])
    st.dataframe(
        pd.DataFrame(
            {
                "condition": [scale.items[i] for i in order],
                "rank": [
                    f"{scale.rank_low[i]}"
                    if scale.rank_low[i] == scale.rank_high[i]
                    else f"{scale.rank_low[i]} to {scale.rank_high[i]}"
                    for i in order
                ],
                "score (JOD)": [round(float(scale.jod[i]), 2) + 0.0 for i in order],  # no "-0.00"
                "low": [scale.low[i] / scale.jod_unit for i in order],
                "high": [scale.high[i] / scale.jod_unit for i in order],
            }
        ),
        hide_index=True,
        column_config={
            name: st.column_config.NumberColumn(format="%.2f")
            for name in ("score (JOD)", "low", "high")
        },
    )
    agreement = f"{alpha.value:.2f}" if alpha.estimable else "not estimable"
    st.write(
        f"Krippendorff's alpha: {agreement}. Votes: {scale.n:.0f}, of which {scale.n_ties:.0f} "
        "ties. Intervals of 95 % speak of new observers and new photographs."
    )
    for warning in dict.fromkeys((*scale.warnings, *alpha.warnings)):
        st.caption(warning)


def artifacts(frame: pd.DataFrame) -> None:
    """How often anything was seen in each condition."""
    rates = [one for one in stats.artifact_rates(frame) if one.artifact is None]
    st.dataframe(
        pd.DataFrame(
            {
                "condition": [one.condition for one in rates],
                "trials": [one.trials for one in rates],
                "with an artifact": [100 * one.rate.value for one in rates],
                "low": [100 * one.rate.low for one in rates],
                "high": [100 * one.rate.high for one in rates],
            }
        ),
        hide_index=True,
        column_config={
            name: st.column_config.NumberColumn(format="%.0f %%")
            for name in ("with an artifact", "low", "high")
        },
    )


admit()
common.wide()
common.kicker("Administration")
study = choose()
protocol = protocol_of(study)
st.title(protocol.title)
st.html(
    f'<p class="percept-note">{html.escape(study.name)} · {study.method} · '
    f"{session_length(state.store(), study)} trials in a session · created "
    f"{study.created_at:%d %B %Y}</p>"
)
progress(study)
people(study)
links(study)
control(study)
export(study)
results(study)
