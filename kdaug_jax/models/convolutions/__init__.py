"""2-D convolutions, each in the form that is fast on the platform that it is compiled for.

`choice` says what runs when, `apply` runs it, the other files hold the forms.
"""
