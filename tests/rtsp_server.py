"""An RTSP server that misbehaves when told to: GStreamer's, run by the system's Python as a child process.

    rtsp_server.py PORT MOUNTS.json

Each mount plays a folder of JPEG pictures in a loop. Commands come as JSON lines on standard input,
`["set", mount, knob, value]`, `["times", mount]` or `["clients"]`; each is answered by one JSON line. Without
input it ends. `edge` is not imported here: the system's Python does not have what it needs.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstApp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstApp, GstRtspServer  # noqa: E402

AUDIO = "audiotestsrc is-live=true wave=ticks ! audioconvert ! audio/x-raw,rate=8000,channels=1 ! alawenc"

CODECS = {
    "h264": "x264enc speed-preset=ultrafast tune=zerolatency threads={slices} key-int-max={gop} "
    "bitrate={kbps} ! h264parse ! video/x-h264,stream-format=byte-stream,alignment=au",
    "jpeg": "jpegenc quality=70",
    "unknown": "jpegenc",
}
PAYLOADERS = {
    "h264": "appsrc name=packets is-live=true format=time ! h264parse config-interval=-1 "
    "! rtph264pay name=pay0 pt=96 aggregate-mode=zero-latency",
    "jpeg": "appsrc name=packets is-live=true format=time ! rtpjpegpay name=pay0 pt=26",
    "unknown": "appsrc name=packets is-live=true format=time ! rtpgstpay name=pay0 pt=96",
}


def raw_caps(size: tuple[int, int]) -> str:
    return f"video/x-raw,format=I420,width={size[0]},height={size[1]},pixel-aspect-ratio=1/1"


@dataclass
class Knobs:
    """What goes wrong on a mount; a test turns them while it plays.

    Attributes:
        pause: no frames, the connection stays.
        slow: seconds between frames, instead of the mount's own.
        static: the same picture again and again; black: that picture is black.
        damage: every n-th encoded picture has bytes flipped, unless it is a key frame.
        cut: every n-th encoded picture loses its second half, unless it is a key frame.
        drop: every n-th RTP packet is lost.
        back: seconds that timestamps stay behind, from now on.
        size: width and height, from now on.
    """

    pause: bool = False
    slow: float = 0.0
    static: bool = False
    black: bool = False
    damage: int = 0
    cut: int = 0
    drop: int = 0
    back: float = 0.0
    size: tuple[int, int] | None = None


@dataclass
class Mount:
    """A mount point: its description, its knobs and when each of its pictures was last sent."""

    path: str
    codec: str = "h264"
    folder: str = ""
    size: tuple[int, int] = (320, 240)
    fps: float = 10.0
    gop: int = 10
    kbps: int = 1000
    slices: int = 1
    audio: bool = False
    password: str = ""
    knobs: Knobs = field(default_factory=Knobs)
    times: dict[int, float] = field(default_factory=dict)

    @property
    def launch(self) -> str:
        if self.codec == "audio":
            return f"( {AUDIO} ! rtppcmapay name=pay0 pt=8 )"
        rate = f"{round(self.fps * 1000)}/1000"
        raw = (
            f"appsrc name=frames is-live=true format=time caps=image/jpeg,framerate={rate} max-buffers=4 "
            "block=true ! jpegdec qos=false ! videoconvert qos=false ! videoscale qos=false "
            f"add-borders=false ! capsfilter name=size caps={raw_caps(self.size)}"
        )
        encoder = CODECS[self.codec].format(gop=self.gop, kbps=self.kbps, slices=self.slices)
        sink = "appsink name=encoded emit-signals=true sync=false async=false"
        audio = f"{AUDIO} ! rtppcmapay name=pay1 pt=8" if self.audio else ""
        return f"( {raw} ! {encoder} ! {sink} {PAYLOADERS[self.codec]} {audio} )"


class Player(threading.Thread):
    """Plays one mount while somebody watches: feeds pictures to the encoder, and packets to the payloader."""

    def __init__(self, mount: Mount, element: Gst.Element) -> None:
        super().__init__(daemon=True)
        self.mount, self.done = mount, threading.Event()
        self.pictures = [p.read_bytes() for p in sorted(Path(mount.folder).glob("*.jpg"))]
        self.black = (Path(mount.folder) / "black.jpeg").read_bytes()
        self.frames, self.packets = element.get_by_name("frames"), element.get_by_name("packets")
        self.size = element.get_by_name("size")
        self.element = element  # keeps the pipeline's parts alive
        self.random = random.Random(1)
        self.encoded_count = self.packet_count = 0
        self.passing = False
        element.get_by_name("encoded").connect("new-sample", self.on_encoded)
        payloader = element.get_by_name("pay0").get_static_pad("src")
        payloader.add_probe(Gst.PadProbeType.BUFFER | Gst.PadProbeType.BUFFER_LIST, self.on_packet)

    def run(self) -> None:
        knobs, number, shown, due = self.mount.knobs, 0, 0, time.monotonic()
        start, size = due, self.mount.size
        while not self.done.is_set():
            due = max(due + (knobs.slow or 1 / self.mount.fps), time.monotonic())  # no bursts
            self.done.wait(max(0.0, due - time.monotonic()))
            if knobs.size and knobs.size != size:
                size = knobs.size
                self.size.set_property("caps", Gst.Caps.from_string(raw_caps(size)))
            if not knobs.static:
                number, shown = number + 1, number % len(self.pictures)
            if not knobs.pause:
                now = time.monotonic()
                self.mount.times[shown] = now
                picture = self.black if knobs.black else self.pictures[shown]
                self.push(self.frames, picture, round((now - start) * Gst.SECOND))

    def push(self, source: GstApp.AppSrc, data: bytes, pts: int) -> None:
        buffer = Gst.Buffer.new_wrapped(data)
        buffer.pts = buffer.dts = pts
        source.push_buffer(buffer)

    def on_encoded(self, sink: Gst.Element) -> Gst.FlowReturn:
        """An encoded picture on its way to the payloader, damaged if the mount's knobs say so."""
        sample = sink.emit("pull-sample")
        buffer, knobs = sample.get_buffer(), self.mount.knobs
        data = buffer.extract_dup(0, buffer.get_size())
        self.packets.set_property("caps", sample.get_caps())
        self.encoded_count += 1
        key = self.mount.codec == "h264" and not buffer.has_flags(Gst.BufferFlags.DELTA_UNIT)
        if knobs.damage and not key and self.encoded_count % knobs.damage == 0:
            data = self.flipped(data)
        if knobs.cut and not key and self.encoded_count % knobs.cut == 0:
            data = data[: len(data) // 2]
        time_in_segment = sample.get_segment().to_running_time(Gst.Format.TIME, buffer.pts)
        self.push(self.packets, data, time_in_segment)
        return Gst.FlowReturn.OK

    def flipped(self, data: bytes) -> bytes:
        """Some bytes changed, behind the headers; none becomes a start code's zero."""
        damaged, first = bytearray(data), min(len(data) // 4, 60)
        for _ in range(max(8, len(data) // 50)):
            damaged[self.random.randrange(first, len(data))] = self.random.randrange(1, 256)
        return bytes(damaged)

    def on_packet(self, pad: Gst.Pad, info: Gst.PadProbeInfo) -> Gst.PadProbeReturn:
        """RTP packets on their way to the clients: one, or all of a picture."""
        if self.passing:
            return Gst.PadProbeReturn.OK
        self.packet_count += 1
        knobs, packets = self.mount.knobs, info.get_buffer_list()
        if knobs.drop and self.packet_count % knobs.drop == 0:
            return Gst.PadProbeReturn.DROP
        if not knobs.back:
            return Gst.PadProbeReturn.OK
        self.passing = True  # what is pushed here comes by again
        count = packets.length() if packets else 1
        for packet in [packets.get(i) for i in range(count)] if packets else [info.get_buffer()]:
            pad.push(set_back(packet, knobs.back))
        self.passing = False
        return Gst.PadProbeReturn.DROP


def set_back(packet: Gst.Buffer, seconds: float) -> Gst.Buffer:
    """An RTP packet with an earlier timestamp (RFC 3550, section 5.1)."""
    data = bytearray(packet.extract_dup(0, packet.get_size()))
    stamp = int.from_bytes(data[4:8], "big") - round(seconds * 90000)
    data[4:8] = (stamp % 2**32).to_bytes(4, "big")
    earlier = Gst.Buffer.new_wrapped(bytes(data))
    earlier.pts, earlier.dts = packet.pts, packet.dts
    return earlier


class Factory(GstRtspServer.RTSPMediaFactory):
    """One encoder for all clients of a mount."""

    def __init__(self, mount: Mount) -> None:
        super().__init__()
        self.mount = mount
        self.set_launch(mount.launch)
        self.set_shared(mount.codec != "audio")
        self.set_latency(0)
        self.set_eos_shutdown(False)
        if mount.codec != "audio":
            self.connect("media-configure", self.on_configure)

    def on_configure(self, factory: Factory, media: GstRtspServer.RTSPMedia) -> None:
        player = Player(self.mount, media.get_element())
        media.connect("unprepared", lambda media: player.done.set())
        player.start()


def allow(factory: Factory, role: str, construct: bool) -> None:
    text = f"{role}, media.factory.access=(boolean)true, media.factory.construct=(boolean){construct}"
    factory.add_role_from_structure(Gst.Structure.from_string(text)[0])


def restrict(server: GstRtspServer.RTSPServer, mounts: list[tuple[Mount, Factory]]) -> None:
    """Whoever knows a mount's password may see it; mounts without one are open."""
    auth, anonymous = GstRtspServer.RTSPAuth(), GstRtspServer.RTSPToken()
    guard = GstRtspServer.RTSPToken()
    anonymous.set_string("media.factory.role", "anybody")
    guard.set_string("media.factory.role", "guard")
    auth.set_default_token(anonymous)
    for mount, factory in mounts:
        allow(factory, "anybody", construct=not mount.password)  # who may not is asked for a password
        if mount.password:
            allow(factory, "guard", construct=True)
            user, _, password = mount.password.partition(":")
            auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), guard)
    server.set_auth(auth)


def obey(mounts: dict[str, Mount], server: GstRtspServer.RTSPServer, command: list[Any]) -> Any:
    match command:
        case ["set", path, knob, value]:
            if not hasattr(mounts[path].knobs, knob):
                raise KeyError(knob)
            setattr(mounts[path].knobs, knob, tuple(value) if isinstance(value, list) else value)
            return True
        case ["times", path]:
            return dict(mounts[path].times)
        case ["clients"]:
            return len(server.client_filter(None) or [])
    raise ValueError(command)


def listen(mounts: dict[str, Mount], server: GstRtspServer.RTSPServer) -> None:
    """Obey commands until there are no more; then the whole process ends."""
    for line in sys.stdin:
        try:
            answer = {"ok": obey(mounts, server, json.loads(line))}
        except Exception as e:
            answer = {"error": repr(e)}
        print(json.dumps(answer), flush=True)
    os._exit(0)


def main() -> None:
    port, file = sys.argv[1:]
    Gst.init(None)
    mounts = [Mount(**mount) for mount in json.loads(Path(file).read_text())]
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    points = server.get_mount_points()
    made = [(mount, Factory(mount)) for mount in mounts]
    for mount, factory in made:
        points.add_factory(mount.path, factory)
    restrict(server, made)
    if server.attach(None) == 0:
        sys.exit(f"port {port} cannot be had")
    print(json.dumps({"ok": server.get_bound_port()}), flush=True)
    by_path = {mount.path: mount for mount in mounts}
    threading.Thread(target=listen, args=(by_path, server), daemon=True).start()
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()
