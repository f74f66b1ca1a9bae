"""An S3 server in this process: moto's, on the loopback."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

BUCKET = "tickets"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}  # fmt: skip


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """Address of a server with one bucket; the environment has what it takes to use it, as on a real cluster."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in CREDENTIALS.items():
                patch.setenv(name, value)
            boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket=BUCKET)
            yield f"{host}:{port}"
    finally:
        server.stop()


def storage(server: str, prefix: str) -> str:
    """The URI of a storage in the bucket, for a server or a proxy in front of it."""
    return f"s3://{BUCKET}/{prefix}?endpoint_override={server}&scheme=http"
