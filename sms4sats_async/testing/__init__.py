"""For tests of your own program: the service in memory with scripted endings, and a clock that does not wait.

With the extra ``pytest`` its plugin hands them to a test as the fixtures ``sms4sats_client``, ``sms4sats_sandbox``, ``sms4sats_clock``
and ``sms4sats_wallet``. Nothing in here needs pytest.
"""

from sms4sats_async.testing.clock import Clock, RealTimeError
from sms4sats_async.testing.sandbox import PaymentReturned, ScriptedSandbox
from sms4sats_async.testing.scripts import Script, Trouble, Words

__all__ = ["Clock", "PaymentReturned", "RealTimeError", "Script", "ScriptedSandbox", "Trouble", "Words"]
