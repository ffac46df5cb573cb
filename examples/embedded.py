"""The server as part of a Twisted program. Run twistd -n -y embedded.py (in this folder).

The program's own page is at http://localhost:8081/, the live page at /push/channels/visits.
"""

from twisted.application.service import Application
from twisted.application.strports import service
from twisted.web.resource import Resource
from twisted.web.server import Site

from pushserver import PushServer

push = PushServer()


class Hello(Resource):
    visits = 0

    def render_GET(self, request):
        self.visits += 1
        push.publish("visits", {"visits": self.visits})
        return b'Somebody visited. <a href="push/channels/visits">Watch.</a>'


root = Resource()
root.putChild(b"", Hello())
root.putChild(b"push", push.resource())

application = Application("embedded")
push.service().setServiceParent(application)
service("tcp:8081:interface=127.0.0.1", Site(root)).setServiceParent(application)
