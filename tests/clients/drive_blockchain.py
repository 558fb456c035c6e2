"""Makes calls of PyPI's ``blockchain`` 1.4.4 to another API than Blockchain.info's; runs in the Python of its own.

Standard input is JSON: ``{"url": "http://KEY@host/", "calls": [["receive", [xpub, callback, key]], ...]}``. Standard
output is a JSON list with one answer a call: ``{"result": ...}``, or ``{"error": {...}}`` with what the SDK raised.

The redirection is what a shop would write: the base URL is a constant inside the SDK's functions, so the one function
that all of them call is wrapped. Python's urllib takes no key in a URL; it is given to it as HTTP Basic, which urllib
sends when it is asked for it by a 401.
"""

import json
import sys
from urllib.parse import urlsplit
from urllib.request import HTTPBasicAuthHandler, HTTPPasswordMgrWithDefaultRealm, build_opener, install_opener

from blockchain import util
from blockchain.v2 import receive

CALLS = {"receive": receive.receive, "check_gap": receive.check_gap, "callback_log": receive.callback_log}


def redirect(url):
    """Have the SDK call this URL."""
    parts = urlsplit(url)
    bare_url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    if parts.username is not None:
        passwords = HTTPPasswordMgrWithDefaultRealm()
        passwords.add_password(None, bare_url, parts.username, "")
        install_opener(build_opener(HTTPBasicAuthHandler(passwords)))
    call_api = util.call_api
    util.call_api = lambda resource, data=None, base_url=None: call_api(resource, data, bare_url)


def shown(result):
    """Return what the SDK returned as JSON values; its objects by their fields."""
    if isinstance(result, list):
        return [shown(item) for item in result]
    return vars(result) if hasattr(result, "__dict__") else result


def answer_of(name, arguments):
    """Make one call, and return what came of it."""
    try:
        return {"result": shown(CALLS[name](*arguments))}
    except util.APIException as error:
        return {"error": {"kind": type(error).__name__, "message": str(error), "status": error.code}}


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    redirect(asked["url"])
    json.dump([answer_of(name, arguments) for name, arguments in asked["calls"]], sys.stdout)
