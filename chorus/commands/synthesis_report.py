"""What ``chorus synthesize`` and ``chorus ingest images`` print: the plan (--dry-run), and the report of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table

from chorus.commands.console import counted, out, print_facts, print_json, print_table, wrote

if TYPE_CHECKING:
    from chorus.frontend.job import Job
    from chorus.frontend.pipeline import RunReport


def say_plan(job: Job, as_json: bool) -> None:
    """Print what the job would do, as tables or as JSON."""
    from chorus.frontend.registry import find
    from chorus.frontend.run import stage_options

    description, requests, present = job.description, job.requests, job.present()
    stages = []
    for kind, spec in description.stages.items():
        name, _, model = spec.partition("=")
        info = find(kind, name)
        chosen = stage_options(description.options, kind)
        used = model or info.model or ""
        stages.append({"stage": kind, "name": name, "model": used, "licence": info.licence, "options": chosen})
    plan: dict[str, Any] = {
        "store": job.output,
        "category": description.category,
        "images": len(requests),
        "present": present,
        "to_make": len(requests) - present,
        "prompts": sorted({r.prompt for r in requests}),
        "views": sorted({r.view for r in requests}),
        "settings": {**description.settings, "batch": job.settings.batch},
    }
    if as_json:
        print_json({**plan, "stages": stages})
        return
    cells = max(1, len({(r.prompt, r.view) for r in requests}))
    print_facts({k: v for k, v in plan.items() if k not in ("prompts", "views", "settings")})
    combinations = f"{counted(len(plan['prompts']), 'prompt')} x {counted(len(plan['views']), 'view')}"
    out.print(f"{combinations}, {len(requests) / cells:,.1f} images each:")
    for prompt in plan["prompts"]:
        out.print(f"  {prompt}")
    table = Table("stage", "name", "model", "licence")
    for stage in stages:
        table.add_row(*(str(stage[name]) for name in ("stage", "name", "model", "licence")))
    print_table(table)
    out.print("nothing was done (--dry-run)")


def say_done(job: Job, report: RunReport, as_json: bool) -> None:
    """Print what the job did, as tables or as JSON."""
    processes = job.ranks.world
    facts: dict[str, Any] = {
        "made": report.images,
        "rows": dict(report.rows.most_common()),
        "seconds": round(report.seconds, 1),
        "images_per_second": round(report.images / report.seconds, 2) if report.seconds else 0.0,
        "in_the_store": job.present(),
        "asked_for": len(job.requests),
        "stopped": report.stopped,
    }
    times = [
        {"stage": t.name, **{name: round(getattr(t, name), 2) for name in ("busy", "starved", "blocked")}} for t in report.times
    ]
    if as_json:
        print_json({**facts, "times": times, "processes": processes, "store": job.output})
        return
    rows = facts.pop("rows")
    if rows:
        table = Table("what became of the images", "")
        for status, number in rows.items():
            table.add_row(status, f"{number:,}")
        print_table(table)
        table = Table("stage", "busy, s", "waits for input, s", "waits for output, s")
        for row in times:
            table.add_row(*(str(value) for value in row.values()))
        print_table(table)
    print_facts(facts if processes == 1 else {**facts, "processes": f"{processes}; made: by the first"})
    if report.stopped:
        out.print("stopped before the end; the same command goes on from here")
    wrote(job.output)
