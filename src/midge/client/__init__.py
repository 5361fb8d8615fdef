"""The HTTP client under the command line and the SDK.

Layers, each without knowledge of the next:

    request   what is asked: method, path, query, body, and whether asking twice is harmless
    retry     when to ask again, and how long to pause
    failures  what an answer other than 2xx means: one of `midge.errors`
    apps, machines, images, server    builders of requests, one module a resource
    transport sends requests (sync); an asynchronous twin would share everything above
    client    the resources bound to a transport
    wait, logs, websocket    long polls, line streams, exec and proxy sessions
    endpoint, contexts       where the server is and which token it gets

Nothing here is public: the command line and the SDK are.
"""
