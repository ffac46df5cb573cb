"""A site that stands for yours. It asks for no password, and everybody may notify everybody."""

import os

from flask import Flask, redirect, render_template, request, session
from notifications import app

web = Flask(__name__, static_folder=None)
web.secret_key = f"the cookies of {os.environ['PUSHSERVER_AUTH_TOKEN_SECRET']}"


@web.get("/")
def page():
    return render_template("site.html", user=session.get("user"))


@web.post("/login")
def login():
    session["user"] = request.form["user"]  # check a password first
    return redirect("./")


@web.post("/logout")
def logout():
    session.clear()
    return redirect("./")


@web.get("/push-token")
def push_token():
    if "user" not in session:
        return "", 204
    return {"token": app.token(session["user"], seconds=600)}, {"Cache-Control": "no-store"}


@web.post("/send")
def send():
    form = request.form
    notice = {name: form[name][:1000] for name in ("severity", "title", "text", "url")}
    app.publish("notices:all" if form["to"] == "all" else f"notices:#{form['to']}", notice)
    return redirect("./")


# A strict policy, as a page of yours may have it: the line of script works under it.
@web.after_request
def protect(response):
    response.headers["Content-Security-Policy"] = (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; "
        "connect-src 'self' ws: wss:; require-trusted-types-for 'script'"
    )
    return response
