"""Benchmarks: what one run on this machine did, with the machine's load."""

from __future__ import annotations

import typer
from bench_end_to_end import end_to_end
from bench_gpu import gpu
from bench_objects import objects
from bench_priority import priority
from bench_receive import receive
from bench_scale import scale
from bench_score import score
from bench_send import send

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)


@app.callback()
def bench() -> None:
    """Measure the node."""


app.command("receive")(receive)
app.command("send")(send)
app.command("end-to-end")(end_to_end)
app.command("score")(score)
app.command("gpu")(gpu)
app.command("objects")(objects)
app.command("priority")(priority)
app.command("scale")(scale)

if __name__ == "__main__":
    app()
