"""Flower's entry point on the client: thin, so that everything below it runs without Flower's runtime.

The client finds its own store by an environment variable and the node's partition, never by anything the server sent.
"""

from __future__ import annotations

import os
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.folder import open_host
from client.host import answer
from shared.protocol import declined_record

app = ClientApp()


@app.train("update")
def update(message: Message, context: Context) -> Message:
    """Train, answer with a sealed update."""
    return _answer(message, context)


@app.evaluate("measurement")
def measurement(message: Message, context: Context) -> Message:
    """Measure recall and exposure, answer with a sealed report."""
    return _answer(message, context)


@app.query("statistics")
def statistics(message: Message, context: Context) -> Message:
    """Answer with a sealed popularity vector."""
    return _answer(message, context)


def _answer(message: Message, context: Context) -> Message:
    record = declined_record()
    try:
        partition = int(context.node_config.get("partition-id", 0))
        host = open_host(Path(os.environ.get("FEDRECALL_HOME", ".")), partition)
        try:
            record = answer(host, next(iter(host.stores)), message.content)
        finally:
            host.close()
    except Exception:  # noqa: BLE001 - Flower would send the type and the text of whatever it is to the server
        record = declined_record()
    return Message(record, reply_to=message)
