#!/usr/bin/python3
"""The browser that WebKitWebDriver starts: WebKitGTK in windows without bars.

    webkit_browser.py FOLDER light|dark

WebKit's own MiniBrowser has no profile under a driver, and without one WebKit writes no messages of
the console. Its windows are also wider than a phone. Runs with Debian's Python, for python3-gi.
"""

import os
import sys
from pathlib import Path

import gi

gi.require_version("Gtk", "3.0")
gi.require_version("WebKit2", "4.1")
from gi.repository import Gtk, WebKit2  # noqa: E402

folder, scheme = sys.argv[1:3]
# Also of its processes for pages, which write the messages of the console.
log = os.open(Path(folder, "log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.dup2(log, 1)
os.dup2(log, 2)

manager = WebKit2.WebsiteDataManager(base_data_directory=folder, base_cache_directory=folder)
context = WebKit2.WebContext(website_data_manager=manager)
context.set_automation_allowed(True)
settings = WebKit2.Settings(
    enable_write_console_messages_to_stdout=True,
    hardware_acceleration_policy=WebKit2.HardwareAccelerationPolicy.NEVER,
)


def open_window(_session: WebKit2.AutomationSession) -> WebKit2.WebView:
    view = WebKit2.WebView(web_context=context, settings=settings, is_controlled_by_automation=True)
    window = Gtk.Window(default_width=1240, default_height=800)
    window.add(view)
    view.connect("close", lambda _view: window.destroy())
    window.show_all()
    return view


def start(_context: WebKit2.WebContext, session: WebKit2.AutomationSession) -> None:
    session.connect("create-web-view", open_window)


Gtk.Settings.get_default().set_property("gtk-application-prefer-dark-theme", scheme == "dark")
context.connect("automation-started", start)
Gtk.main()
