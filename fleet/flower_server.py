"""Flower as one process of the fleet: its application behind our door, its memory of tasks behind our checks, until SIGTERM.

It owns how Flower is put together: what listens, what may be sent there, how many events may wait, when what was seen is kept
(every minute and at the end: a kill costs what came since). Options are those of `config/flowerconfig.py`; of the environment
Flower sees nothing but its OAuth.
"""

from __future__ import annotations

import logging
import os
import signal
from collections import deque
from pathlib import Path
from typing import Any

from flower.app import Flower
from flower.command import extract_settings
from flower.events import Events
from flower.options import options
from flower.urls import settings
from flower.utils.authentication import authenticate
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPServerRequest
from tornado.ioloop import PeriodicCallback
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler, decode_signed_value

from fleet.config import shipped_file
from fleet.errors import FleetError
from fleet.flower_door import Access, Door
from fleet.flower_memory import Memory
from fleet.flower_tasks import Names
from fleet.loopback import from_here
from fleet.runtime import Runtime

logger = logging.getLogger(__name__)

#: Longest body of a request: Flower's own are a few hundred bytes.
MAX_BODY_BYTES = 1_000_000
#: Seconds for a request's body, and for which a connection may be idle.
BODY_S, IDLE_S = 10.0, 120.0
#: Seconds between two writings of what was seen.
SAVE_S = 60.0
#: Events that may wait to be looked at; when the workers send more than one Python process can follow, the newest are dropped.
MOST_WAITING = 10_000


class Feed(Events):
    """Flower's thread that listens to the workers; it hands on no more than can be looked at."""

    def __init__(self, capp: Any, io_loop: Any, memory: Memory, path: Path) -> None:
        super().__init__(capp, io_loop, enable_events=False, max_tasks_in_memory=1)
        self.state = memory
        self._path = path
        self.state_save_timer = PeriodicCallback(self.save_state, SAVE_S * 1000)
        self._arrived: deque[dict[str, Any]] = deque()
        #: Since the start: counted in the thread, told on the loop.
        self._dropped = self._told = 0

    def stop(self) -> None:
        """Keep what was seen."""
        super().stop()
        self.save_state()

    def save_state(self) -> None:
        """Keep what was seen so far, if the disk lets us."""
        try:
            self.state.write(self._path)
        except OSError as error:
            logger.warning("what Flower has seen is not kept: %s", error)

    def on_event(self, event: dict[str, Any]) -> None:
        """Called in the thread."""
        if len(self._arrived) >= MOST_WAITING:
            self._dropped += 1
            return
        self._arrived.append(event)
        self.io_loop.add_callback(self._look)

    def _look(self) -> None:
        self.state.event(self._arrived.popleft())
        if not self._arrived and (more := self._dropped - self._told):
            self._told += more
            logger.warning("%d events were dropped: the workers send more than Flower can follow", more)


class Guarded(Flower):
    """Flower behind a door that every request comes to first, whatever it asks for."""

    def __init__(self, access: Access, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._door = Door(access)

    def find_handler(self, request: HTTPServerRequest, **kwargs: Any) -> Any:
        """As Tornado's, for whoever is let in."""
        headers = request.headers
        here = from_here(request.remote_ip or "", headers.get_list("host"), headers.get("origin"), headers)
        authorization = headers.get("authorization", "")
        if self._door.opens(
            request.method or "",
            request.path,
            authorization=authorization,
            signed_in=signed_in(request, self.options.auth, self.settings["cookie_secret"]),
            here=here,
        ):
            return super().find_handler(request, **kwargs)
        refusal = {"status": self._door.status, "headers": self._door.headers}
        return self.get_handler_delegate(request, Refused, refusal)

    def start_http_server(self) -> int:
        """Listen; the port. Raises OSError."""
        return _listen(self, self.options.address, self.options.port)

    def show_metrics(self, host: str, port: int) -> None:
        """Listen where scrapers come that have no password; an address that is taken costs the metrics alone."""
        try:
            _listen(Application([("/metrics", Shown, {"flower": self})]), host, port)
        except OSError as error:
            logger.warning("Flower shows no metrics at %s:%s: %s", host, port, error.strerror)
        else:
            logger.info("metrics at http://%s:%s/metrics", host, port)


class Shown(RequestHandler):
    """What Flower itself shows at /metrics behind its door."""

    def initialize(self, flower: Flower) -> None:
        self._flower = flower

    def get(self) -> None:
        self._flower.purge_offline_worker_metrics()
        self.set_header("Content-Type", CONTENT_TYPE_LATEST)
        self.write(generate_latest())


def _listen(app: Application, host: str, port: int) -> int:
    sockets = bind_sockets(port, address=host)
    server = HTTPServer(
        app, max_body_size=MAX_BODY_BYTES, body_timeout=BODY_S, idle_connection_timeout=IDLE_S, xheaders=False
    )
    server.add_sockets(sockets)
    return int(sockets[0].getsockname()[1])


def signed_in(request: HTTPServerRequest, let_in: str, secret: str) -> bool:
    """Whether a request has the cookie that Flower gave to somebody whose e-mail address is let in; it is good for a month."""
    if not let_in or "user" not in request.cookies:
        return False
    user = decode_signed_value(secret, "user", request.cookies["user"].value)
    return user is not None and bool(authenticate(let_in, user.decode()))


class Refused(RequestHandler):
    """Tells whoever is not let in so, and nothing else."""

    def initialize(self, status: int, headers: dict[str, str]) -> None:
        self._refusal = status, headers

    def check_xsrf_cookie(self) -> None:
        """There is nothing here to be forged."""

    def prepare(self) -> None:
        """Answer, whatever the method."""
        status, headers = self._refusal
        self.set_status(status)
        for name, value in headers.items():
            self.set_header(name, value)
        self.finish()


def serve(runtime: Runtime, access: Access, host: str, port: int, folder: Path) -> None:
    """Serve until SIGTERM or SIGINT; `folder` keeps what was seen.

    Raises:
        FleetError: the address cannot be had.
    """
    path = folder / "flower" / "seen.json"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # It opens the API to everybody, and to every page on the web; here it has the same door as the rest.
    os.environ.pop("FLOWER_UNAUTHENTICATED_API", None)
    options.parse_config_file(str(shipped_file("flowerconfig.py")), final=False)
    options.address, options.port = host, port
    if access.basic is not None:
        options.basic_auth = [access.basic]
    if (oauth := access.oauth) is not None:
        options.auth, options.auth_provider = oauth.auth, oauth.auth_provider
        options.oauth2_key, options.oauth2_redirect_uri = oauth.oauth2_key, oauth.oauth2_redirect_uri
        options.oauth2_secret = oauth.oauth2_secret.get_secret_value() if oauth.oauth2_secret is not None else None
    extract_settings()
    memory = Memory(Names(runtime.tiers), max_tasks=options.max_tasks, max_workers=options.max_workers)
    memory.read(path)
    app = Guarded(access, capp=runtime.app, options=options, **settings)
    app.events = Feed(runtime.app, app.io_loop, memory, path)
    try:
        app.start_http_server()
    except OSError as error:
        raise FleetError(f"Flower cannot listen on {host}:{port}: {error.strerror}.") from error
    logger.info("Flower at http://%s:%s", host, port)
    if (address := runtime.environment.metrics_address) is not None:
        app.show_metrics(*address)
    for number in (signal.SIGTERM, signal.SIGINT):
        app.io_loop.asyncio_loop.add_signal_handler(number, app.io_loop.stop)
    try:
        app.start()
    finally:
        app.stop()
