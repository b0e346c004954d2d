"""Do live feeds keep what they promise: no lag, no death, no frame without a fate, little cost?

    python benchmarks/live_feeds.py [QUESTION ...] [--minutes 2] [--repeat 3] [--json FILE] [--figure FILE]

    overload          a camera five times as fast as the engine: age in the first minute and in the last
    rtsp_restart      a server is killed and restarted: seconds to the first result
    stall_and_freeze  a feed hangs, pauses, stands still or turns black: seconds until its state says so
    sixteen           16 RTSP feeds, 640×360 at 10 fps: accounting, and CPU beside bare decoders
    killing           16 feeds, one killed every 10 s: accounting, threads, files, memory
    overhead          CPU a frame beyond a bare loop, four live feeds, with and without health checks
    gate              a still, noisy scene behind the motion gate, and small things that come and go
    peers             YOLOX-Nano at 416: share of the engine's ceiling, and latency at a live 30 fps

All of them without a name. RTSP is a real server (GStreamer's), engines cost nothing but for `overload` and
`peers`. --peers names stream_peers.py, whose loop and thread-and-queue run beside ours with this Python;
with --peers-python, a Python that has its packages, Roboflow's pipeline too.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from common import arguments, report
from feeds import gate, killing, overhead, overload, peers, restart, sixteen, states
from feeds.question import Options
from feeds.stage import rtsp

from edge.machine import detect

QUESTIONS = {
    "overload": overload.measure,
    "rtsp_restart": restart.measure,
    "stall_and_freeze": states.measure,
    "sixteen": sixteen.measure,
    "killing": killing.measure,
    "overhead": overhead.measure,
    "gate": gate.measure,
    "peers": peers.measure,
}
NEED_SERVER = ("rtsp_restart", "stall_and_freeze", "sixteen", "killing")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("questions", nargs="*", metavar="QUESTION", help=", ".join(QUESTIONS))
    parser.add_argument("--minutes", type=float, default=2.0, help="of overload and killing; default: 2")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--peers", type=Path, metavar="FILE", help="stream_peers.py")
    parser.add_argument("--peers-python", type=Path, metavar="FILE", help="a Python with its packages")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw the answers")
    parser.add_argument("--child", type=float, help="our own run of `peers`, at this pace")
    parser.add_argument("--spin", action="store_true", help="that run with threads that stay awake")
    args = parser.parse_args()
    if args.child is not None:
        print(json.dumps(peers.child(args.child, args.spin)))
        return
    if unknown := set(args.questions) - set(QUESTIONS):
        parser.error(f"no question {', '.join(sorted(unknown))}; there are {', '.join(QUESTIONS)}")
    options = Options(args.minutes, args.repeat, args.peers, args.peers_python)
    answers: dict[str, Any] = {}
    for name in args.questions or QUESTIONS:
        if name in NEED_SERVER and (why := rtsp.missing()):
            print(f"{name:18} not measured: {why}", flush=True)
            continue
        answer = QUESTIONS[name](options)
        answers[name] = answer.record()
        print(f"{name:18} {answer.told}\n{'':18} reach: {answer.reach}", flush=True)
        print(f"{'':18} {'reached' if answer.met else 'MISSED'}", flush=True)
    if args.json:
        report("live_feeds", answers, args.json)
    if args.figure:
        from feeds.figure import draw

        draw(args.figure, answers, detect().label)


if __name__ == "__main__":
    sys.exit(main())
