"""Sends request bodies under the read time-out.

urllib3 sends them under the connect time-out, which is too short for a server that stops reading
while it writes a large study to its disk.
"""

from __future__ import annotations

from typing import Any

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager, ProxyManager
from urllib3.connection import HTTPConnection, HTTPSConnection


class PatientAdapter(HTTPAdapter):
    """The adapter to mount.

    Args:
        send_timeout_s: For each block of a body.
        pool_connections: Hosts to keep connections to.
        pool_maxsize: Connections to keep to each.
    """

    def __init__(self, send_timeout_s: float, *, pool_connections: int, pool_maxsize: int) -> None:
        self._pools = _pools(send_timeout_s)
        super().__init__(pool_connections=pool_connections, pool_maxsize=pool_maxsize)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        manager: PoolManager = self.poolmanager
        manager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, proxy: str, **proxy_kwargs: Any) -> ProxyManager:
        manager: ProxyManager = super().proxy_manager_for(proxy, **proxy_kwargs)
        if not proxy.lower().startswith("socks"):
            manager.pool_classes_by_scheme = self._pools
        return manager


def _pools(send_timeout_s: float) -> dict[str, type[HTTPConnectionPool]]:
    class Connection(HTTPConnection):
        def endheaders(self, *args: Any, **kwargs: Any) -> None:
            super().endheaders(*args, **kwargs)
            if self.sock is not None:
                self.sock.settimeout(send_timeout_s)

    class TlsConnection(HTTPSConnection):
        def endheaders(self, *args: Any, **kwargs: Any) -> None:
            super().endheaders(*args, **kwargs)
            if self.sock is not None:
                self.sock.settimeout(send_timeout_s)

    class Pool(HTTPConnectionPool):
        ConnectionCls = Connection

    class TlsPool(HTTPSConnectionPool):
        ConnectionCls = TlsConnection

    return {"http": Pool, "https": TlsPool}
