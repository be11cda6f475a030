"""A broker with its clients, as the bus contract needs it from each implementation."""

from __future__ import annotations

from abc import ABC, abstractmethod

from bus.port import Bus, Message
from tests.support.waiting import eventually

PROMPTLY_S = 3.0  # generous for a loaded machine, far below what it guards against
LONG_S = 30.0  # a timeout that no test may wait for
PRODUCT, CAPABILITY = "p1", "gpu"
F1, F2 = "f1", "f2"  # every world's factories; both have PRODUCT, only F1 has CAPABILITY


class BusWorld(ABC):
    """One broker, and buses that are its clients; the world closes them."""

    def __init__(self) -> None:
        self.buses: list[Bus] = []

    @abstractmethod
    def make_bus(self, factory_id: str | None) -> Bus: ...

    @abstractmethod
    def public_of(self, factory_id: str) -> str:
        """The key by which the broker knows that factory."""

    @abstractmethod
    def stop_broker(self) -> None: ...

    @abstractmethod
    def start_broker(self) -> None: ...

    def bus(self, factory_id: str | None = None) -> Bus:
        """Not started. Without a factory it is a coordinator's, with every right."""
        bus = self.make_bus(factory_id)
        self.buses.append(bus)
        return bus

    async def started(self, factory_id: str | None = None) -> Bus:
        bus = self.bus(factory_id)
        await bus.start()
        await eventually(lambda: bus.connected)
        return bus

    async def close(self) -> None:
        for bus in self.buses:
            await bus.close()


class Heard(list[Message]):
    """A listener that keeps what it hears."""

    def __call__(self, message: Message) -> None:
        self.append(message)

    @property
    def data(self) -> list[bytes]:
        return [message.data for message in self]


async def echo(message: Message) -> bytes | None:
    return b"echo " + message.data


def any_reply(message: Message) -> bool:
    return message.reply is not None
