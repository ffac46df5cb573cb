"""Every page in Chromium, Firefox and WebKit: `make engines`.

`browser.py` says what a test may do in a browser, and `chromium.py`, `firefox.py` and `webkit.py`
do it, each in the protocol of its engine.
"""
