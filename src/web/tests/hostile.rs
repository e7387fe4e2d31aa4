//! The pages with names and words that try to be more: lists, contacts, what is typed, and what stands in addresses.

use super::*;

const NAMES: [&str; 2] = ["<script>alert(1)</script>", "\"><img src=x onerror=alert(1)>' {{token}}"];

/// No element of theirs on the page, and none of their words outside of text.
fn check(place: &str, page: &str) {
    for words in ["<script", "<img", "onerror=alert(1)>"] {
        assert!(!page.contains(words), "{place}: {page}");
    }
}

#[tokio::test(start_paused = true)]
async fn names_of_lists_and_contacts_are_words_on_every_page() {
    let house = house_of(NAMES[0], NAMES[1], NAMES).await;
    let preferences = house.path().replace("/u/", "/p/");
    let view = format!("/v/{}", house.token(Purpose::View, 0));
    let (all, undo) = (format!("{}/all", house.path()), format!("{}/undo", house.path()));
    for (method, path, form) in [
        (Method::GET, house.path(), ""),
        (Method::POST, house.path(), ""),
        (Method::POST, all, ""),
        (Method::POST, undo, ""),
        (Method::GET, preferences.clone(), ""),
        (Method::POST, format!("{preferences}/pause"), "days=7&x=%3Cscript%3E"),
        (Method::GET, view.clone(), ""),
    ] {
        let request = Request::builder().method(method).uri(&path);
        let request =
            request.header("content-type", "application/x-www-form-urlencoded").body(Body::from(form)).unwrap();
        let response = router(house.pages.clone()).oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        let page = text(response).await;
        check(&path, &page);
        assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"), "{path}: {page}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_stands_in_an_address_is_not_repeated() {
    let house = house().await;
    for path in [
        "/u/%3Cscript%3E",
        "/p/%22%3E%3Cimg%20src=x%3E",
        "/v/..%2f..%2fetc%2fpasswd",
        "/c/x%0d%0aLocation:%20y",
        "/%3Cscript%3E",
    ] {
        let response = house.ask(Method::GET, path, "").await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "{path}");
        assert_eq!(response.headers().get(header::LOCATION), None);
        check(path, &text(response).await);
    }
}

#[tokio::test(start_paused = true)]
async fn a_contacts_value_leads_a_click_nowhere_else() {
    for city in [
        "x\r\nSet-Cookie: a=b",
        "x\nLocation: https://evil.example/",
        "@evil.example/",
        "#@evil.example/",
        "\\evil.example/",
        "..//evil.example/",
        "\"><script>alert(1)</script>",
        "javascript:alert(1)",
        "\u{1b}[2J",
        "日本",
    ] {
        let house = house_of("Ada", city, ["news", "offers"]).await;
        let click = format!("/c/{}", house.token(Purpose::Click, 0));
        let response = house.visit(Method::GET, &click, FIREFOX).await;
        assert!(response.headers().get("set-cookie").is_none(), "{city:?}");
        match response.headers().get(header::LOCATION) {
            Some(target) => {
                let target = target.to_str().unwrap();
                assert!(target.starts_with("https://shop.example/?to="), "{city:?}: {target}");
                assert_eq!(response.status(), StatusCode::FOUND);
            }
            None => assert_eq!(response.status(), StatusCode::NOT_FOUND, "{city:?}"),
        }
    }
}

#[cfg(unix)]
#[test]
fn a_page_of_the_workspace_lies_in_its_folder() {
    let workspace = tempfile::tempdir().unwrap();
    let (public, secret) = (workspace.path().join("public"), workspace.path().join("seal.keys"));
    std::fs::create_dir(&public).unwrap();
    std::fs::write(&secret, "secret").unwrap();
    std::fs::write(public.join("own.css"), "p {}").unwrap();
    let style = public.join("style.css");
    std::os::unix::fs::symlink("own.css", &style).unwrap();
    assert!(Looks::load(&public).is_ok());
    std::fs::remove_file(&style).unwrap();
    std::os::unix::fs::symlink(&secret, &style).unwrap();
    assert!(Looks::load(&public).is_err_and(|why| why.to_string().contains("leads out of its folder")));
}
