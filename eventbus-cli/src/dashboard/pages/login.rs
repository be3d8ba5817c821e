//! The page on which an operator enters the token.

use maud::{Markup, html};

use crate::dashboard::visit::Visit;

pub(in crate::dashboard) fn login(visit: &Visit, has_failed: bool) -> Markup {
    if !visit.inner().access().has_login() {
        return html! { p { "This dashboard is read-only: there is no token to log in with." } };
    }
    html! {
        @if has_failed {
            p.problem role="alert" { "Wrong token." }
        }
        form.stacked method="post" action=(visit.link("login", &[])) {
            p.field {
                label for="token" { "Token" }
                input #token type="password" name="token" required autocomplete="current-password";
            }
            p { button.primary { "Log in" } }
        }
        p.hint { "The dashboard was given the token when it started, or printed it then." }
    }
}
