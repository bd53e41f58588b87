# SPDX-License-Identifier: Apache-2.0
"""Containers under the distribution's unpatched engines, which find ferry, or CRIU, under the name criu."""
