"""Which port a server of one's own gets."""

import pytest

from tasks.local_server import held_port


def test_two_that_start_at_once_have_two_ports():
    """A server takes seconds to listen; until then its port must not look free to the next one."""
    with held_port() as first, held_port() as second:
        assert first != second
        with pytest.raises(RuntimeError, match=f"port {first} of 127.0.0.1 is taken"), held_port(first):
            pass
    with held_port(first) as again:
        assert again == first
