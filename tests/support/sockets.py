"""Where a process and all that it has started can be reached."""

import ipaddress
import os

import psutil


def listening(pid: int | None = None) -> dict[str, str]:
    """The addresses at which a process, by default this one, and its descendants listen, with their commands."""
    process, found = psutil.Process(pid or os.getpid()), dict[str, str]()
    for each in (process, *process.children(recursive=True)):
        try:
            command = " ".join(each.cmdline())[:80]
            sockets = [one.laddr for one in each.net_connections("inet") if one.status == psutil.CONN_LISTEN]
        except psutil.Error:  # it has ended
            continue
        found |= {f"[{address.ip}]:{address.port}": command for address in sockets}
    return found


def exposed(found: dict[str, str]) -> dict[str, str]:
    """Those of them that other machines may reach."""
    return {address: command for address, command in found.items() if not loopback(address)}


def loopback(address: str) -> bool:
    """Whether `[IP]:PORT` is an address of this machine alone."""
    ip = ipaddress.ip_address(address[1:].partition("]")[0])
    return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback
