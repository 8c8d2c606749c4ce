"""Flower's entry point on the client: thin, so that everything below it runs without Flower's runtime.

The client finds its own store by an environment variable and the node's partition, never by anything the server sent.
"""

from __future__ import annotations

import os
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.folder import client_folder, keep_seat, open_host, take_seat
from client.host import answer
from shared.parcels import is_parcel, opened, parcel
from shared.protocol import MESSAGE_TYPES, declined_record
from shared.publication import ROUTE as PUBLICATION
from shared.sessions import STEP_TYPES

app = ClientApp()


def _answer(message: Message, context: Context) -> Message:
    """Flower may start a process for every message, so the seat in a session waits in the client's own folder.

    Not in the node's state, which Flower gives to a process when it starts and takes back after its answer has left:
    two messages at once would find one seat, and a client would sign two sets of survivors.
    """
    record, small = declined_record(), False
    try:
        small = is_parcel(message.content)
        partition = int(context.node_config.get("partition-id", 0))
        home = Path(os.environ.get("FEDRECALL_HOME", "."))
        host, folder = open_host(home, partition), client_folder(home, partition)
        try:
            client = next(iter(host.stores))
            seat = take_seat(folder)
            if seat is not None:
                host.seats[client] = seat
            record = answer(host, client, opened(message.content))
            if client in host.seats:
                keep_seat(folder, host.seats[client])
        finally:
            host.close()
    except Exception:  # noqa: BLE001 - Flower would send the type and the text of whatever it is to the server
        record = declined_record()
    return Message(parcel(record) if small else record, reply_to=message)


# A publication is declined like anything that is not understood: only the agent serves with one (client/agent.py).
for route in (*MESSAGE_TYPES.values(), *STEP_TYPES.values(), PUBLICATION):
    category, action = route.split(".")
    getattr(app, category)(action)(_answer)
